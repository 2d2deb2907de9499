"""The folder that a run owns, and the decision where training starts in it."""

import re
import shutil
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from armd_dist.checkpoint.folder import (
    TrainingState,
    complete_checkpoints,
    damage,
    read_training_state,
    resolve_checkpoint,
)
from armd_dist.config import to_yaml
from armd_dist.errors import RunFolderError
from armd_dist.run import Run

# Settings that may change between the parts of one run without changing what it computes.
FREE = (
    "run.dir",
    "data.path",
    "data.mixture.path",  # of every dataset
    "data.ledger",
    "data.cache_",
    "training.micro_batch_size",
    "training.stop_at",
    "parallel.",
    "checkpoint.",
    "logging.",
)
PLACE_IN_LIST = re.compile(r"\.\d+(?=\.)")
# Settings that no weights survive a change of.
SHAPE = ("model.",)


def find_start(run: Run, manifest_hash: str, tokenizer_sha256: str) -> tuple[Path | None, list[str]]:
    """The checkpoint to continue from (None: start anew) and what to tell the user.

    Raises RunFolderError where run.dir belongs to another run, or where settings changed that may not.
    """
    folder, resume = Path(run.run.dir), run.checkpoint.resume
    found = complete_checkpoints(folder)
    if resume == "never":
        if (folder / "run.yaml").exists():
            raise RunFolderError(
                f"run.dir={folder}: holds a run already; checkpoint.resume=auto continues it, or choose another run.dir"
            )
        return None, []
    if resume == "auto":
        _refuse_changes(run, folder / "run.yaml", allowed=_free(run))
        checkpoint, notes = _newest_sound(found)
    else:
        checkpoint, notes = _on_purpose(run, resolve_checkpoint(Path(resume)), found), []
    if checkpoint is not None:
        state = read_training_state(checkpoint)
        _refuse_other_data(run, state, manifest_hash, tokenizer_sha256)
        notes.append(f"continuing from {checkpoint} (step {state.step})")
    return checkpoint, notes


def _free(run: Run) -> tuple[str, ...]:
    """Dropout is drawn for a micro-batch: with it another size of these computes something else."""
    return tuple(path for path in FREE if path != "training.micro_batch_size" or not run.model.hidden_dropout)


def claim(run: Run, tokenizer: Path) -> None:
    """Makes the folder this run's: writes the resolved settings and the tokenizer into it."""
    folder = Path(run.run.dir)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / ".run.yaml.partial"
    temporary.write_text(to_yaml(run))
    temporary.replace(folder / "run.yaml")
    shutil.copyfile(tokenizer, folder / "tokenizer.model")


def _newest_sound(found: list[Path]) -> tuple[Path | None, list[str]]:
    notes = []
    for checkpoint in reversed(found):
        problem = damage(checkpoint)
        if problem is None:
            return checkpoint, notes
        notes.append(f"passing over {checkpoint}: {problem}")
    if found:
        raise RunFolderError("\n".join([*notes, "no sound checkpoint is left; choose another run.dir to start anew"]))
    return None, notes


def _on_purpose(run: Run, checkpoint: Path, found: list[Path]) -> Path:
    """checkpoint.resume=PATH: any setting may differ but the model's shape."""
    if problem := damage(checkpoint):
        raise RunFolderError(f"checkpoint.resume={checkpoint}: {problem}")
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


def _refuse_changes(run: Run, written: Path, allowed: tuple[str, ...]) -> None:
    if not written.exists():
        return
    changed = [line for line in differences(run, written) if not PLACE_IN_LIST.sub("", line).startswith(allowed)]
    if changed:
        raise RunFolderError(
            f"run.dir={run.run.dir}: belongs to a run with other settings:\n  "
            + "\n  ".join(changed)
            + "\nchoose another run.dir, or continue it on purpose with checkpoint.resume=PATH of a checkpoint"
        )


def differences(run: Run, written: Path) -> list[str]:
    """Settings that differ from a written run.yaml, as `path: then -> now`."""
    then, now = _flat(OmegaConf.to_container(OmegaConf.load(written))), _flat(run.model_dump(mode="json"))
    return [
        f"{path}: {then.get(path)} -> {now.get(path)}"
        for path in sorted({*then, *now})
        if then.get(path) != now.get(path)
    ]


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
