"""The folder that a run owns, and the decision where training starts in it."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from yaml import YAMLError

from armd_dist.checkpoint.folder import (
    TrainingState,
    complete_checkpoints,
    damage,
    read_training_state,
    resolve_checkpoint,
    step_folders,
)
from armd_dist.checkpoint.retention import leftovers
from armd_dist.config import to_yaml
from armd_dist.errors import RunFolderError
from armd_dist.run import Run
from data_pipeline.files import write_atomically

# Settings that may change between the parts of one run without changing what it computes.
FREE = (
    "run.dir",
    "data.path",
    "data.mixture.path",  # of every dataset
    "data.ledger",
    "data.cache_",
    "training.micro_batch_size",
    "training.stop_at",
    "training.compile",
    "parallel.",
    "validation.",
    "checkpoint.",
    "logging.",
)
PLACE_IN_LIST = re.compile(r"\.\d+(?=\.)")
# Of those the ones that say where and how far to go: nobody need be told.
UNTOLD = ("run.dir", "checkpoint.resume", "training.stop_at")
# Settings that no weights survive a change of.
SHAPE = ("model.",)


def find_start(
    run: Run, manifest_hash: str, tokenizer_sha256: str, damage: Callable[[Path], str | None] = damage
) -> tuple[Path | None, list[str]]:
    """The checkpoint to continue from (None: start anew) and what to tell the user.

    damage: says what is wrong with a checkpoint's files, or None. Raises RunFolderError where run.dir belongs to
    another run, or where settings changed that may not.
    """
    folder, resume = Path(run.run.dir), run.checkpoint.resume
    if resume == "never":
        if (folder / "run.yaml").exists():
            raise RunFolderError(
                f"run.dir={folder}: holds a run already; checkpoint.resume=auto continues it, or choose another run.dir"
            )
        return None, []
    if resume == "auto":
        if changed := _changed(run):
            raise RunFolderError(
                f"run.dir={run.run.dir}: belongs to a run with other settings:\n  "
                + "\n  ".join(changed)
                + "\nchoose another run.dir, or continue it on purpose with checkpoint.resume=PATH of a checkpoint"
            )
        checkpoint, notes = _newest_sound(step_folders(folder), damage)
    elif _went_on(run):
        checkpoint, notes = _newest_sound(step_folders(folder), damage)
    else:
        asked_for = resolve_checkpoint(Path(resume))
        checkpoint, notes = _on_purpose(run, asked_for, complete_checkpoints(folder), damage), []
    if checkpoint is not None:
        state = read_training_state(checkpoint)
        _refuse_other_data(run, state, manifest_hash, tokenizer_sha256)
        changed = [line for line in differences(run, checkpoint / "run.yaml") if not line.startswith(UNTOLD)]
        if changed:
            notes.append("settings that differ from the checkpoint's:\n  " + "\n  ".join(changed))
        notes.append(f"continuing from {checkpoint} (step {state.step})")
    return checkpoint, notes


def _free(run: Run) -> tuple[str, ...]:
    """Dropout is drawn for a micro-batch: with it another size of these computes something else."""
    return tuple(path for path in FREE if path != "training.micro_batch_size" or not run.model.hidden_dropout)


def claim(run: Run, tokenizer: Path) -> None:
    """Makes the folder this run's: writes the resolved settings and the tokenizer into it, and clears it up."""
    folder = Path(run.run.dir)
    folder.mkdir(parents=True, exist_ok=True)
    for left in leftovers(folder):
        shutil.rmtree(left)
    write_atomically(folder / "run.yaml", to_yaml(run).encode())
    shutil.copyfile(tokenizer, folder / "tokenizer.model")


def _newest_sound(found: list[Path], damage: Callable[[Path], str | None]) -> tuple[Path | None, list[str]]:
    notes = []
    for checkpoint in reversed(found):
        problem = damage(checkpoint)
        if problem is None:
            return checkpoint, notes
        notes.append(f"passing over {checkpoint}: {problem}")
    if found:
        raise RunFolderError("\n".join([*notes, "no sound checkpoint is left; choose another run.dir to start anew"]))
    return None, notes


def _on_purpose(run: Run, checkpoint: Path, found: list[Path], damage: Callable[[Path], str | None]) -> Path:
    """checkpoint.resume=PATH: any setting may differ but the model's shape."""
    if problem := damage(checkpoint):
        raise RunFolderError(f"checkpoint.resume={checkpoint}: {problem}; give another checkpoint of its run")
    newer = [path for path in found if path.name > checkpoint.name]
    if newer:
        raise RunFolderError(
            f"run.dir={run.run.dir}: holds newer checkpoints than {checkpoint.name} (up to {newer[-1].name}), "
            "which would be overwritten; choose another run.dir"
        )
    changed = [line for line in differences(run, checkpoint / "run.yaml") if line.startswith(SHAPE)]
    if changed:
        raise RunFolderError(
            f"checkpoint.resume={checkpoint}: is of another model:\n  "
            + "\n  ".join(changed)
            + "\nuse its model.* settings"
        )
    return checkpoint


def _went_on(run: Run) -> bool:
    """Whether this very command, checkpoint.resume=PATH, has saved in run.dir before: it goes on from there."""
    folder = Path(run.run.dir)
    if not complete_checkpoints(folder) or not (folder / "run.yaml").exists():
        return False
    before = read_settings(folder / "run.yaml").get("checkpoint", {}).get("resume")
    return before == run.checkpoint.resume and not _changed(run)


def _changed(run: Run) -> list[str]:
    """Settings that differ from those of the run in run.dir, and that change what it computes."""
    written, free = Path(run.run.dir) / "run.yaml", _free(run)
    if not written.exists():
        return []
    return [line for line in differences(run, written) if not PLACE_IN_LIST.sub("", line).startswith(free)]


def differences(run: Run, written: Path) -> list[str]:
    """Settings that differ from a written run.yaml, as `path: then -> now`."""
    return changes(_with_defaults(read_settings(written)), run.model_dump(mode="json"))


def _with_defaults(settings: dict[Any, Any]) -> dict[Any, Any]:
    """As a run of today reads them: what was written before a setting existed has that setting's default."""
    try:
        return Run.model_validate(settings).model_dump(mode="json")
    except ValidationError:
        return settings


def changes(then: Any, now: Any) -> list[str]:
    """Leaves of two plain trees that differ, as `path: then -> now`."""
    before, after = _flat(then), _flat(now)
    return [
        f"{path}: {before.get(path)} -> {after.get(path)}"
        for path in sorted({*before, *after})
        if before.get(path) != after.get(path)
    ]


def read_settings(written: Path) -> dict[Any, Any]:
    """The plain tree of a written run.yaml. Raises RunFolderError."""
    reason = "it holds no settings"
    try:
        settings = OmegaConf.to_container(OmegaConf.load(written))
        if settings and isinstance(settings, dict):
            return settings
    except (OmegaConfBaseException, YAMLError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
    raise RunFolderError(
        f"{written}: cannot be read as the settings of a run ({reason}); "
        "copy the run.yaml of the run's newest checkpoint over it, or choose another run.dir"
    )


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, list) and any(isinstance(child, dict) for child in tree):
        tree = dict(enumerate(tree))
    if not isinstance(tree, dict):
        return {prefix.rstrip("."): tree}
    return {path: value for key, child in tree.items() for path, value in _flat(child, f"{prefix}{key}.").items()}


def _refuse_other_data(run: Run, state: TrainingState, manifest_hash: str, tokenizer_sha256: str) -> None:
    if state.tokenizer_sha256 != tokenizer_sha256:
        raise RunFolderError(f"{_data(run)}: was made by another tokenizer than this run's; use its data")
    if state.manifest_hash != manifest_hash and run.checkpoint.resume == "auto":
        raise RunFolderError(
            f"{_data(run)}: is not the data that this run has trained on; "
            "use that, or continue on purpose with checkpoint.resume=PATH of a checkpoint"
        )


def _data(run: Run) -> str:
    if run.data.path is not None:
        return f"data.path={run.data.path}"
    return f"data.mixture={', '.join(dataset.path for dataset in run.data.datasets)}"
