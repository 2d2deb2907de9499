"""The models that the benchmarks compare, as settings of `armd train`, and what each of them costs."""

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from experiment import Evaluation, Job

from armd_dist.config import load_run
from armd_dist.model.config import ModelConfig
from armd_dist.model.cost import num_parameters, training_flops_per_token
from armd_dist.run import Run

# The measure of configs/quickstart.yaml, as shares of a run's steps; rho then stays at its largest to the end.
LEFT_TO_RIGHT_SHARE = 0.3
PROGRESSIVE_SHARE = 0.5
WARMUP_SHARE = 0.1
CHECKPOINTS = 4
STRIDED = "1,2,4"
# The rate from which strided fine-tuning decays, as a share of the peak: enough to move, too little to forget.
STRIDED_RATE = 0.25
FLOOR = 0.1  # of the peak, where every rate ends: no rate of a search is annealed less than another

MODELS: dict[str, tuple[str, ...]] = {
    # With neighbours as its query context and left to right this is an ordinary GPT, with exactly ARMD's parameters.
    "ar": ("model.two_stream_layers=0", "orders.left_to_right_steps=0", "orders.mixture={left_to_right: 1}"),
    "armd": (),
    "any_order": ("orders.left_to_right_steps=0", "orders.mixture={any_order: 1}"),
    "mdlm": ("model.network=denoiser", "orders.left_to_right_steps=0", "orders.block_length=null"),
    "bd3lm": ("model.network=denoiser", "orders.left_to_right_steps=0", "orders.block_length=4"),
}
DENOISERS = ("mdlm", "bd3lm")
TITLES = {
    "ar": "AR",
    "armd": "ARMD, curriculum",
    "any_order": "two-stream, any order",
    "mdlm": "MDLM",
    "bd3lm": "BD3-LM, blocks of 4",
}
# The figure that each model is trained for. An exact perplexity and a bound are not the same kind of number.
HEADLINE = {
    "ar": "left_to_right",
    "armd": "left_to_right",
    "any_order": "any_order",
    "mdlm": "masked_diffusion",
    "bd3lm": "block_diffusion",
}
BOUNDS = ("any_order", "masked_diffusion", "block_diffusion")


@dataclass(frozen=True)
class Setting:
    """What all runs of a benchmark share. windows: of an evaluation; flops_per_second: of one worker, for the estimate
    of --dry-run alone; rates: the learning rates that each model of quality.py tries; workers: runs at a time."""

    config: Path
    base: tuple[str, ...]
    steps: int
    held_out: float
    random_orders: int
    windows: int
    zero_shot_windows: int
    flops_per_second: float
    rates: tuple[float, ...]
    workers: int

    def run(self, overrides: tuple[str, ...]) -> Run:
        """Every setting of a run, checked. Raises ConfigError."""
        return load_run(self.config, [*self.base, *overrides], world_size=1)

    def job(self, name: str, overrides: tuple[str, ...], evaluations: tuple[Evaluation, ...]) -> Job:
        """A run from new weights. overrides: of this setting, that is, behind its changes to the preset."""
        overrides = (*self.base, *overrides)
        facts = self.facts(overrides)
        return Job(name, overrides, facts["steps"], evaluations, facts=facts, resolved=decisive(self.run(overrides)))

    def facts(self, overrides: tuple[str, ...], first: int = 0) -> dict[str, Any]:
        """Parameters, cost and tokens of a run."""
        run = self.run(overrides)
        tokens = run.training.global_batch_size * run.data.sequence_length
        return {
            "parameters": num_parameters(run.model),
            "training_flops_per_token": training_flops(run),
            "tokens": (run.training.steps - first) * tokens,
            "steps": run.training.steps,
        }

    def shown(self, preset: str) -> dict[str, Any]:
        """The setting to write beside numbers."""
        run = self.run(())
        versions = ("armd-dist", "torch", "deepspeed", "megatron-core")
        return {
            "preset": preset + (f", changed: {' '.join(self.base)}" if self.base else ""),
            "vocabulary": run.model.vocab_size,
            "sequence_length": run.data.sequence_length,
            "steps": self.steps,
            "tokens_per_step": run.training.global_batch_size * run.data.sequence_length,
            "precision": run.training.precision,
            "random_orders_per_window": self.random_orders,
            "versions": ", ".join(f"{name} {version(name)}" for name in versions),
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        }


PRESETS = Path(__file__).parent / "presets"
# Settings that a run's YAML has no place for.
SIZES: dict[str, dict[str, Any]] = {
    "cpu": {
        "held_out": 0.012,
        "random_orders": 4,
        "windows": 480,
        "zero_shot_windows": 240,
        "flops_per_second": 4e10,
        "rates": (1.5e-3, 3e-3),
        "workers": 2,
    },
    "gpu": {
        "held_out": 0.005,
        "random_orders": 8,
        "windows": 2048,
        "zero_shot_windows": 512,
        "flops_per_second": 2e14,
        "rates": (3e-4, 6e-4),
        "workers": 1,
    },
}


def setting(preset: str, steps: int | None, changes: list[str], windows: int | None) -> Setting:
    """The preset's setting. changes: a.b=c overrides for every run; windows: of an evaluation, None for the preset's.

    Raises ConfigError.
    """
    config = PRESETS / f"{preset}.yaml"
    sizes: dict[str, Any] = SIZES[preset] | ({"windows": windows, "zero_shot_windows": windows} if windows else {})
    return Setting(config, tuple(changes), steps or load_run(config, changes).training.steps, **sizes)


def decisive(run: Run) -> dict[str, Any]:
    """Every setting that decides what a run comes to: all but folders, checkpoints and what is logged."""
    settings = run.model_dump(
        mode="json", exclude={"run": {"dir"}, "data": {"path"}, "logging": True, "checkpoint": True}
    )
    return {name: part for name, part in settings.items() if part}


def training_flops(run: Run) -> float:
    """FLOPs of forward and backward for each token of the text."""
    return training_flops_per_token(run.model, run.data.sequence_length, block_length=run.orders.block_length)


def schedule(steps: int, seed: int = 0) -> tuple[str, ...]:
    """Warm-up and checkpoints in proportion, so that a shorter run is the same schedule, scaled."""
    return (
        f"training.steps={steps}",
        f"training.seed={seed}",
        f"training.warmup_steps={max(1, round(WARMUP_SHARE * steps))}",
        f"checkpoint.every={max(1, -(-steps // CHECKPOINTS))}",
        "checkpoint.keep=1",
    )


def peak(rate: float) -> tuple[str, ...]:
    """The learning rate's peak and its floor."""
    return f"training.learning_rate={rate:g}", f"training.min_learning_rate={FLOOR * rate:g}"


def curriculum(steps: int) -> tuple[str, ...]:
    return (
        f"orders.left_to_right_steps={round(LEFT_TO_RIGHT_SHARE * steps)}",
        f"orders.progressive_steps={round(PROGRESSIVE_SHARE * steps)}",
    )


def model_overrides(name: str, steps: int, ffn: int) -> tuple[str, ...]:
    """Everything that makes a run this model's. ffn: the denoisers' width, see `matching_ffn`."""
    width = (f"model.ffn_hidden_size={ffn}",) if name in DENOISERS else ()
    return (*MODELS[name], *(curriculum(steps) if name == "armd" else ()), *width)


def matching_ffn(setting: Setting) -> int:
    """The denoiser's MLP width whose parameter count is nearest to ARMD's; the denoiser has no query context."""
    target = num_parameters(setting.run(()).model)
    denoiser = setting.run(MODELS["mdlm"]).model
    width = denoiser.ffn_hidden_size
    assert width is not None
    return width + round((target - num_parameters(denoiser)) / _parameters_of_a_unit(denoiser, width))


def _parameters_of_a_unit(config: ModelConfig, width: int) -> int:
    wider = config.model_copy(update={"ffn_hidden_size": width + 1})
    return num_parameters(wider) - num_parameters(config)


def strided_continuation(setting: Setting, of: Job, share: float, evaluations: tuple[Evaluation, ...]) -> Job:
    """Fine-tuning on strided orders (SBP) from the end of a finished run, for `share` of its steps more.

    It is a run of its own from the last checkpoint. So the run that it continues has decayed its rate to the end, as
    all others did, and is a fair point of comparison; one long run would be compared in the middle of its decay. The
    rate begins again at a quarter of the peak and decays to the same floor: warm-up "ends" where the continuation
    begins, so that the schedule is the cosine over the added steps alone. Adam's moments are kept: it needs no ramp.
    """
    last = of.steps + max(1, round(share * of.steps))
    again = ("training.steps=", "training.warmup_steps=", "training.learning_rate=", "checkpoint.")
    overrides = (
        *(text for text in of.overrides if not text.startswith(again)),
        f"training.steps={last}",
        f"training.warmup_steps={of.steps}",
        f"training.learning_rate={STRIDED_RATE * setting.run(of.overrides).training.learning_rate:g}",
        f"orders.strided_from={of.steps}",
        f"orders.strided_streams=[{STRIDED}]",
        f"checkpoint.every={last}",
        "checkpoint.keep=1",
    )
    facts = setting.facts(overrides, first=of.steps)
    return Job(
        f"{of.name}-strided",
        overrides,
        last,
        evaluations,
        after=of.name,
        first=of.steps,
        facts=facts,
        resolved=decisive(setting.run(overrides)),
    )
