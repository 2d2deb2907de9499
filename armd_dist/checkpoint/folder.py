"""Checkpoint folders on disk: names, completeness, checksums. No torch, so that light commands can look around.

`checkpoints/step-00001000/` holds `state/` (sharded tensors), `run.yaml`, `state.json`, `tokenizer.model` and
`COMPLETE` with size and checksum of every file. It is built in a hidden sibling and renamed when all is there: a folder
without COMPLETE is no checkpoint for any reader.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from armd_dist.errors import CheckpointError

COMPLETE = "COMPLETE"
STATE_DIR = "state"
FORMAT = 2  # of COMPLETE; the first was a plain {file: sha256}, which is still read
READERS, BLOCK = 8, 1 << 24  # threads that compute checksums, each with so many bytes in memory


@dataclass(frozen=True)
class TrainingState:
    """What a run needs besides tensors. `consumed_samples` is training's place in the data; of its steps
    `skipped_updates` changed nothing.

    Random numbers are functions of (seed, sample or parameter, layer or stage): the seed is all of their state. So is
    `step` of the learning rate's.
    """

    step: int
    consumed_samples: int
    seed: int
    phase: str
    rho: int
    manifest_hash: str
    tokenizer_sha256: str
    topology: dict[str, int]
    versions: dict[str, str]
    skipped_updates: int = 0  # checkpoints of before it was counted have none

    @property
    def updates(self) -> int:
        """Steps that the optimizer took."""
        return self.step - self.skipped_updates


@dataclass(frozen=True)
class Sum:
    """What a file must be: its size (None where an old checkpoint does not say) and the checksum of its content."""

    bytes: int | None
    sha256: str


def step_folder(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step-{step:08d}"


def partial_folder(run_dir: Path, step: int) -> Path:
    """Where a checkpoint is built before it exists."""
    return run_dir / "checkpoints" / f".step-{step:08d}.partial"


def step_folders(run_dir: Path) -> list[Path]:
    """Everything in a run that has a checkpoint's name, whole or damaged, oldest first."""
    return sorted(path for path in (run_dir / "checkpoints").glob("step-*") if path.is_dir())


def complete_checkpoints(run_dir: Path) -> list[Path]:
    """Checkpoints of a run that were written to the end, oldest first."""
    return [path for path in step_folders(run_dir) if (path / COMPLETE).is_file()]


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


def finish(partial: Path, final: Path, state: TrainingState, written: Mapping[str, Sum]) -> None:
    """Seals a folder whose tensors are written and makes it exist, in one rename.

    written: files, named from `partial` on, whose checksums their writers know; the others, small ones, are read. A
    folder that stands in its place was passed over as damaged; it goes once the new one is there.
    """
    write_text(partial / "state.json", json.dumps(asdict(state), indent=2) + "\n")
    sums = dict(written)
    for file in _files(partial):
        name = str(file.relative_to(partial))
        if name not in sums:
            sync(file)
            sums[name] = Sum(file.stat().st_size, sha256(file))
    if problem := _mismatch(partial, sums):
        raise CheckpointError(problem)
    _seal(partial, sums)
    passed_over = final.with_name(f".{final.name}.replaced")
    shutil.rmtree(passed_over, ignore_errors=True)
    if final.exists():
        final.rename(passed_over)
    partial.rename(final)
    sync(final.parent)
    shutil.rmtree(passed_over, ignore_errors=True)


def _seal(folder: Path, sums: Mapping[str, Sum]) -> None:
    """Writes COMPLETE, by rename, once all else is on the disk."""
    for inner in (folder / STATE_DIR, folder):
        sync(inner)
    temporary = folder / f".{COMPLETE}.partial"
    content = {"format": FORMAT, "files": {name: asdict(one) for name, one in sorted(sums.items())}}
    write_text(temporary, json.dumps(content, indent=2) + "\n")
    sync(temporary)
    temporary.rename(folder / COMPLETE)
    sync(folder)


def read_training_state(checkpoint: Path) -> TrainingState:
    try:
        return TrainingState(**json.loads((checkpoint / "state.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{checkpoint / 'state.json'}: cannot be read ({error})") from error


def read_seal(checkpoint: Path) -> dict[str, Sum]:
    """Size and checksum of every file, from COMPLETE. Raises CheckpointError where it is missing or of no use."""
    file = checkpoint / COMPLETE
    try:
        content = json.loads(file.read_text())
        if content.get("format", 1) == 1:
            return {name: Sum(None, checksum) for name, checksum in content.items()}
        if content["format"] == FORMAT:
            return {name: Sum(one["bytes"], one["sha256"]) for name, one in content["files"].items()}
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing: the checkpoint was interrupted or is damaged") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{file} cannot be read ({error})") from error
    raise CheckpointError(f"{file} is of format {content['format']}; this version reads up to {FORMAT}")


def flaw(checkpoint: Path) -> str | None:
    """What a look at the names and sizes of its files finds wrong, or None. Reads no content but COMPLETE's."""
    try:
        return _mismatch(checkpoint, read_seal(checkpoint))
    except CheckpointError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"


def _mismatch(folder: Path, sums: Mapping[str, Sum]) -> str | None:
    for name, wanted in sums.items():
        file = folder / name
        if not file.is_file():
            return f"{file} is missing"
        if wanted.bytes not in (None, size := file.stat().st_size):
            return f"{file} has {size:,} bytes instead of {wanted.bytes:,}"
    return None


def damage(checkpoint: Path, advance: Callable[[int], object] = lambda _: None) -> str | None:
    """What differs from the checksums in COMPLETE, or None. Reads every byte; `advance` is told how many were read."""
    return flaw(checkpoint) or changed(checkpoint, content_of(checkpoint), advance)


def content_of(checkpoint: Path, rank: int = 0, of: int = 1) -> list[str]:
    """The files that process `rank` of so many reads where they divide them; what it wrote itself is among them."""
    names = sorted(read_seal(checkpoint), key=lambda name: (not name.endswith(".distcp"), len(name), name))
    return names[rank::of]


def changed(checkpoint: Path, names: Sequence[str], advance: Callable[[int], object] = lambda _: None) -> str | None:
    """Which of these files differs from its checksum in COMPLETE, or None. Reads every byte of them."""
    sums = read_seal(checkpoint)

    def differs(name: str) -> str | None:
        file = checkpoint / name
        try:
            return None if sha256(file, advance) == sums[name].sha256 else f"{file} has changed since it was written"
        except OSError as error:
            return f"{file} cannot be read ({error.strerror})"

    with ThreadPoolExecutor(READERS) as pool:
        return next(filter(None, pool.map(differs, names)), None)


def size(checkpoint: Path) -> int:
    """Bytes of all files."""
    return sum(file.stat().st_size for file in _files(checkpoint))


def sha256(file: Path, advance: Callable[[int], object] = lambda _: None) -> str:
    """The checksum of a file; `advance` is told of every block read."""
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def write_text(file: Path, text: str) -> None:
    """Writes a small file. Raises OSError, which names it also where the disk is full."""
    try:
        file.write_text(text)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error


def sync(path: Path) -> None:
    """To the disk: a file's content, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
