"""The ledger: which samples each rank has consumed, appended as training goes, one file a rank and attempt.

`attempt-000001/about.json` says where an attempt started and what it read; `rank-00000.jsonl` has a line for each step
that the rank finished: `{"step": 11, "first": 80, "samples": {"0/3": [17, 5], "1/0": [9]}}`, the step counted from 1,
the global number of the rank's first sample, and windows by dataset (its number in about.json) and epoch. An attempt
takes the place of whatever earlier ones did after the step it starts from. `audit.py` reads it all.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from data_pipeline.errors import DataError
from data_pipeline.files import write_atomically
from data_pipeline.mixture import Mixture, Places

LEDGER, ABOUT = "ledger", "about.json"


@dataclass(frozen=True)
class Attempt:
    """`first_step` steps were finished and `first_sample` samples consumed when it began; `batch`: samples a step;
    `windows`: in an epoch, by dataset."""

    first_step: int
    first_sample: int
    ranks: int
    batch: int
    paths: tuple[str, ...]
    manifests: tuple[str, ...]
    windows: tuple[int, ...]

    @classmethod
    def of(cls, data: Mixture, first_step: int, first_sample: int, ranks: int, batch: int) -> "Attempt":
        return cls(
            first_step=first_step,
            first_sample=first_sample,
            ranks=ranks,
            batch=batch,
            paths=tuple(stream.path for stream in data.streams),
            manifests=tuple(stream.manifest.hash() for stream in data.streams),
            windows=tuple(stream.num_windows for stream in data.streams),
        )


def attempts(run_dir: Path) -> list[Path]:
    """Folders of a run's attempts, oldest first; `DataError` where there are none."""
    found = sorted(path.parent for path in (run_dir / LEDGER).glob(f"attempt-*/{ABOUT}"))
    if not found:
        raise DataError(f"{run_dir}: has no ledger; train with data.ledger=true to write one")
    return found


def begin_attempt(run_dir: Path, attempt: Attempt) -> Path:
    """Makes the next attempt's folder. One process does it, before any rank opens its file."""
    number = 1 + max((int(path.name[8:]) for path in (run_dir / LEDGER).glob("attempt-*")), default=0)
    folder = run_dir / LEDGER / f"attempt-{number:06d}"
    write_atomically(folder / ABOUT, json.dumps(asdict(attempt), indent=2).encode() + b"\n")
    return folder


def rank_file(attempt: Path, rank: int) -> Path:
    return attempt / f"rank-{rank:05d}.jsonl"


class RankLedger:
    """One rank's file. A line is one write, so a crash leaves whole lines and at most one torn at the end."""

    def __init__(self, attempt: Path, rank: int) -> None:
        self._path = rank_file(attempt, rank)
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, step: int, first: int, places: Places) -> None:
        """A finished step, counted from 1, whose samples of this rank start at global number `first`."""
        samples: dict[str, list[int]] = {}
        for dataset, epoch, window in zip(*(part.tolist() for part in places), strict=True):
            samples.setdefault(f"{dataset}/{epoch}", []).append(window)
        line = json.dumps({"step": step, "first": first, "samples": samples}, separators=(",", ":"))
        try:
            os.write(self._file, line.encode() + b"\n")
        except OSError as error:
            raise DataError(
                f"{self._path}: cannot be written ({error.strerror}); a ledger must not miss a step"
            ) from None

    def sync(self) -> None:
        """To the disk: before a checkpoint makes the steps count. What is lost after that is done again anyway."""
        os.fsync(self._file)
