"""From one dial, the depth, to a run's settings: size, objective, and a schedule in the base's proportions."""

import copy
from typing import Any

from armd_dist.config import check_tree
from armd_dist.errors import ConfigError, Problem
from armd_dist.model.config import ModelConfig
from armd_dist.model.cost import num_parameters, training_flops_per_token
from armd_dist.run import Run
from armd_dist.scaling.study import LadderConfig, Objective

Tree = dict[str, Any]
# The figure of evaluation.json whose logarithm is an objective's loss. Of two of them it is a bound from above.
HEADLINE: dict[Objective, str] = {
    "armd": "left_to_right",
    "ar": "left_to_right",
    "mdm": "masked_diffusion",
    "bd3lm": "block_diffusion",
    "lomdm": "learned_order",
}
BOUNDS: tuple[Objective, ...] = ("mdm", "bd3lm", "lomdm")
BLOCK_LENGTH = 4  # of BD3-LM where the base names none, as in its paper


def sized(base: Run, ladder: LadderConfig, depth: int, objective: Objective, share: float) -> Run:
    """The base at this depth and for this objective; steps and schedule are still the base's. share: of L2s in ARMD.

    Raises ConfigError where the network cannot be, or where its learning rate would follow the width twice.
    """
    run = check_tree(_armd(base, ladder, depth, round(share * depth)))
    if objective == "armd":
        return run
    tree = run.model_dump()
    tree["orders"] |= {"left_to_right_steps": 0, "progressive_steps": 0, "strided_from": None}
    if objective == "ar":
        # Left to right, and with one stream, this is an ordinary GPT of exactly ARMD's parameters.
        tree["model"] |= {"two_stream_layers": 0}
        tree["orders"] |= {"mixture": {"left_to_right": 1.0}}
        return check_tree(tree)
    window = (base.orders.block_length or BLOCK_LENGTH) if objective == "bd3lm" else None
    tree["orders"] |= {"mixture": None, "block_length": window}
    tree["model"] |= {"network": "denoiser", "query_place": "own"}
    tree["model"]["ffn_hidden_size"] = _matching_width(
        ModelConfig.model_validate(tree["model"]), num_parameters(run.model)
    )
    tree["model"] |= {"learned_order": objective == "lomdm"}  # its heads come on top of MDM's denoiser
    return check_tree(tree)


def flops_per_token(run: Run) -> float:
    """Forward and backward, both streams counted, for each token of the text."""
    window = run.orders.block_length if run.model.network == "denoiser" else None
    return training_flops_per_token(run.model, run.data.sequence_length, window)


def scheduled(run: Run, base: Run, steps: int, seed: int, run_dir: str) -> Tree:
    """The run's settings for so many steps: warm-up, curriculum and checkpoints at the base's shares of them."""
    tree, scale = run.model_dump(), steps / base.training.steps

    def share(part: int) -> int:
        return round(part * scale)

    tree["run"]["dir"] = run_dir
    tree["training"] |= {
        "steps": steps,
        "stop_at": None,
        "seed": seed,
        "warmup_steps": min(steps, max(1, share(base.training.warmup_steps))) if base.training.warmup_steps else 0,
    }
    for name in ("left_to_right_steps", "progressive_steps", "strided_from"):
        if tree["orders"][name] is not None:
            tree["orders"][name] = share(tree["orders"][name])
    every = max(1, share(base.checkpoint.every))
    tree["checkpoint"] |= {"every": every, "keep": 1, "keep_every": None, "resume": "auto"}
    return tree


def _armd(base: Run, ladder: LadderConfig, depth: int, two_stream: int) -> Tree:
    """ARMD at this depth. Grouped queries keep the base's group."""
    tree, width = copy.deepcopy(base.model_dump()), depth * ladder.width_per_layer
    heads, group = max(1, width // ladder.head_width), _group(base.model)
    tree["model"] |= {
        "network": "armd",
        "hidden_size": width,
        "num_layers": depth,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // group),
        "ffn_hidden_size": None,
        "two_stream_layers": two_stream,
    }
    factor = (base.model.hidden_size / width) ** _rate_power(base, ladder)
    for name in ("learning_rate", "min_learning_rate"):
        tree["training"][name] = float(f"{tree['training'][name] * factor:.4g}")
    return tree


def _rate_power(base: Run, ladder: LadderConfig) -> float:
    """Under muP each weight's rate follows from the width, and the schedule's is the same at every width."""
    power, width = ladder.learning_rate_power, base.model.mup_base_width
    if width is None:
        return 1.0 if power is None else power
    if power:
        rule = f"lowers the learning rate with the width, which model.mup_base_width={width} does for each weight"
        raise ConfigError([Problem("ladder.learning_rate_power", power, rule, "leave one of the two out")])
    return 0.0


def _group(model: ModelConfig) -> int:
    assert model.num_key_value_heads is not None, "ModelConfig fills it"
    return model.num_attention_heads // model.num_key_value_heads


def _matching_width(model: ModelConfig, parameters: int) -> int:
    """The MLP's width at which a denoiser, which lacks the query context, has nearest to so many parameters."""
    width = model.ffn_hidden_size
    assert width is not None, "ModelConfig fills it"
    one_more = num_parameters(model.model_copy(update={"ffn_hidden_size": width + 1})) - num_parameters(model)
    return max(1, width + round((parameters - num_parameters(model)) / one_more))
