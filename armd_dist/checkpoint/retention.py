"""Which checkpoints stay, and how the others go. No torch."""

import shutil
from pathlib import Path

from armd_dist.checkpoint.folder import flaw, step_folders

KINDS = ("partial", "replaced", "deleted")


def surplus(run_dir: Path, keep: int, keep_every: int | None) -> list[Path]:
    """Checkpoints that are neither of the `keep` newest sound ones nor of a step that `keep_every` divides.

    Sound: all files are there, of the right size. One that is not does not count, and is left to its owner.
    """
    sound = [path for path in step_folders(run_dir) if flaw(path) is None]
    return [path for path in sound[:-keep] if keep_every is None or step_of(path) % keep_every]


def delete(checkpoint: Path) -> None:
    """It is renamed first, so that a half-deleted one never looks like a checkpoint."""
    going = checkpoint.with_name(f".{checkpoint.name}.deleted")
    shutil.rmtree(going, ignore_errors=True)
    checkpoint.rename(going)
    shutil.rmtree(going)


def leftovers(run_dir: Path) -> list[Path]:
    """What is half-written, or what a killed process left half-written or half-deleted. No reader takes it for more."""
    return [path for kind in KINDS for path in sorted((run_dir / "checkpoints").glob(f".step-*.{kind}"))]


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint's name; 0 where there is none."""
    number = checkpoint.name.removeprefix("step-")
    return int(number) if number.isdecimal() else 0
