"""A new run that begins with the weights of another one: which they are, whether they fit, and how it takes them."""

from collections.abc import Callable
from pathlib import Path

from armd_dist.checkpoint.folder import damage, read_training_state, resolve_checkpoint
from armd_dist.errors import CheckpointError, ConfigError, Problem
from armd_dist.parallel.engine import Engine
from armd_dist.run import Run
from armd_dist.training.run_folder import has_average, settings_of_today
from armd_dist.training.saving import fill

# Settings of the network that weights survive a change of: no weight has its shape or its meaning from them.
NO_WEIGHTS = ("hidden_dropout", "init_std", "norm_eps", "rope_theta", "two_stream_layers")


def find_weights(
    run: Run, tokenizer_sha256: str, damage: Callable[[Path], str | None] = damage
) -> tuple[Path, list[str]]:
    """The checkpoint that checkpoint.weights_from means, and what to tell the user.

    damage: says what is wrong with its files, or None. Raises CheckpointError where there is none or a byte of it has
    changed, ConfigError with all that does not fit.
    """
    given = run.checkpoint.weights_from
    assert given is not None, "the caller asks whether there is one"
    try:
        checkpoint = resolve_checkpoint(Path(given))
        problem = damage(checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint.weights_from={given}: {error}") from error
    if problem is not None:
        raise CheckpointError(f"checkpoint.weights_from={given}: {problem}; give another checkpoint of its run")
    before, model = settings_of_today(checkpoint / "run.yaml").get("model", {}), run.model.model_dump(mode="json")
    changed = {name: (before.get(name), now) for name, now in model.items() if before.get(name) != now}
    problems = [
        Problem(f"model.{name}", now, f"the weights of {checkpoint} are of {then}", f"use model.{name}={then}")
        for name, (then, now) in changed.items()
        if name not in NO_WEIGHTS
    ]
    state = read_training_state(checkpoint)
    if state.tokenizer_sha256 != tokenizer_sha256:
        rule = "its weights know the tokens of another tokenizer than that of the data"
        remedy = f"build the data with armd data build --tokenizer {checkpoint / 'tokenizer.model'}"
        problems.append(Problem("checkpoint.weights_from", given, rule, remedy))
    if problems:
        raise ConfigError(problems)
    what = "the average of the weights" if has_average(checkpoint) else "the weights"
    notes = [f"beginning with {what} of {checkpoint} (step {state.step}), and with a fresh optimizer"]
    if changed:
        lines = [f"model.{name}: {then} -> {now}" for name, (then, now) in changed.items()]
        notes.insert(0, "settings of the model that differ from theirs:\n  " + "\n  ".join(lines))
    return checkpoint, notes


def begin_with(engine: Engine, checkpoint: Path) -> None:
    """Takes its weights, of any layout, or their average where there is one; the optimizer is fresh. Collective.

    Raises CheckpointError where they cannot be read.
    """
    part = "ema" if has_average(checkpoint) else "weight"
    there, here = settings_of_today(checkpoint / "run.yaml")["model"]["two_stream_layers"], engine.run.model
    assert here.two_stream_layers is not None, "ModelConfig fills it"
    places = {
        f"{part}/{name_there(key.removeprefix('weight/'), here.two_stream_layers, there)}": piece
        for key, piece in engine.places().items()
        if key.startswith("weight/")
    }
    fill(places, checkpoint, engine.topology)
    engine.go_on_from(0)
    engine.begin_average()


def name_there(name: str, here: int, there: int) -> str:
    """A parameter's name in a network of `there` two-stream layers, which has `here` of them in this one.

    A layer's name says of which kind it is, and counts from the first of its kind.
    """
    kind, _, rest = name.partition(".")
    if kind not in ("two_stream", "upper"):
        return name
    number, _, rest = rest.partition(".")
    layer = int(number) + (here if kind == "upper" else 0)
    return f"two_stream.{layer}.{rest}" if layer < there else f"upper.{layer - there}.{rest}"
