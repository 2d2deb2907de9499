"""Checkpoint folders on disk: names, completeness, retention. No torch, so that light commands can look around.

`checkpoints/step-00001000/` holds `state/` (sharded tensors), `run.yaml`, `state.json`, `tokenizer.model` and
`COMPLETE` with the checksum of every file. It is built in a hidden sibling and renamed when all is there: a folder
without COMPLETE does not exist for any reader.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from armd_dist.errors import CheckpointError

COMPLETE = "COMPLETE"
STATE_DIR = "state"


@dataclass(frozen=True)
class TrainingState:
    """What a run needs besides tensors. `consumed_samples` is training's place in the data."""

    step: int
    consumed_samples: int
    seed: int
    phase: str
    rho: int
    manifest_hash: str
    tokenizer_sha256: str
    topology: dict[str, int]
    versions: dict[str, str]


def step_folder(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step-{step:08d}"


def partial_folder(run_dir: Path, step: int) -> Path:
    """Where a checkpoint is built before it exists."""
    return run_dir / "checkpoints" / f".step-{step:08d}.partial"


def complete_checkpoints(run_dir: Path) -> list[Path]:
    """Checkpoints of a run that were written to the end, oldest first."""
    return sorted(path.parent for path in (run_dir / "checkpoints").glob(f"step-*/{COMPLETE}"))


def resolve_checkpoint(path: Path) -> Path:
    """A checkpoint folder, or the newest complete one of a run folder. Raises CheckpointError."""
    if (path / COMPLETE).is_file():
        return path
    found = complete_checkpoints(path)
    if found:
        return found[-1]
    if not path.exists():
        raise CheckpointError(f"{path}: no such folder; give a run folder or one of its checkpoints/step-* folders")
    raise CheckpointError(f"{path}: holds no complete checkpoint (a folder without {COMPLETE} was interrupted)")


def finish(partial: Path, final: Path, state: TrainingState) -> None:
    """Seals a folder whose tensors are written and makes it exist, in one rename.

    A folder that stands in its place was passed over as damaged or interrupted; it goes once the new one is there.
    """
    (partial / "state.json").write_text(json.dumps(asdict(state), indent=2) + "\n")
    checksums = {str(file.relative_to(partial)): sha256(file) for file in _files(partial)}
    with open(partial / COMPLETE, "w") as seal:
        json.dump(checksums, seal, indent=2)
        seal.flush()
        os.fsync(seal.fileno())
    passed_over = final.with_name(f".{final.name}.replaced")
    shutil.rmtree(passed_over, ignore_errors=True)
    if final.exists():
        final.rename(passed_over)
    partial.rename(final)
    shutil.rmtree(passed_over, ignore_errors=True)


def read_training_state(checkpoint: Path) -> TrainingState:
    try:
        return TrainingState(**json.loads((checkpoint / "state.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{checkpoint / 'state.json'}: cannot be read ({error})") from error


def damage(checkpoint: Path) -> str | None:
    """What differs from the checksums in COMPLETE, or None. Reads every byte."""
    try:
        checksums = json.loads((checkpoint / COMPLETE).read_text())
    except (OSError, ValueError) as error:
        return f"{checkpoint / COMPLETE} cannot be read ({error})"
    for name, expected in checksums.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{file} is missing"
        if sha256(file) != expected:
            return f"{file} has changed since it was written"
    return None


def keep_newest(run_dir: Path, count: int) -> None:
    """Deletes older checkpoints. The seal goes first, so that a half-deleted folder never looks complete."""
    for old in complete_checkpoints(run_dir)[:-count]:
        (old / COMPLETE).unlink()
        shutil.rmtree(old)


def sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
