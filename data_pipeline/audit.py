"""What a ledger proves: every sample of the steps that count was consumed exactly once."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.ledger import ABOUT, Attempt, attempts, rank_file

MOST_PROBLEMS = 20


@dataclass(frozen=True)
class Stretch:
    """An attempt and which of its steps count, `first` to `last` (none where last < first); `done`: its last step."""

    name: str
    about: Attempt
    first: int
    last: int
    done: int


@dataclass
class Audit:
    """`start`: steps before the ledger begins; `saved`: steps of the newest checkpoint, as far as the proof goes;
    `left_out`: samples (first, end) that training jumped over on purpose, back from a loss spike."""

    start: int
    saved: int
    stretches: list[Stretch]
    samples: int = 0
    by_dataset: dict[str, list[int]] = field(default_factory=dict)  # path: [samples, whole epochs]
    left_out: list[tuple[int, int]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def audit(run_dir: Path, saved: int) -> Audit:
    """Go through a run's ledger up to `saved` steps, those that its newest checkpoint holds.

    Checked: every rank has a line for every step that counts; the ranks' samples together are the step's global batch,
    each once; no window comes twice in an epoch of its dataset, and an epoch that others follow has all its windows.
    Memory: a byte for each window of the epochs that are open. `DataError` where there is no ledger, or it is damaged.
    """
    found = _stretches(attempts(run_dir), saved)
    result = Audit(found[0][1].about.first_step, saved, [stretch for _, stretch in found])
    if len({stretch.about.manifests for _, stretch in found}) > 1:
        result.problems.append(f"{run_dir}: its attempts read different data")
        return result
    seen = _Windows(found[0][1].about, whole=result.start == 0)
    reached = found[0][1].about.first_sample
    for number, (folder, stretch) in enumerate(found):
        if stretch.last < stretch.first:
            continue
        if stretch.about.first_sample > reached:
            result.left_out.append((reached, stretch.about.first_sample))
            for line in _lines_between(found[:number], reached, stretch.about.first_sample):
                seen.leave_out(line)
        for line in _counted(folder, stretch, result.problems):
            result.samples += seen.add(line, result.problems)
        reached = stretch.about.first_sample + (stretch.last - stretch.about.first_step) * stretch.about.batch
    result.by_dataset = seen.summary(result.problems)
    return result


def _stretches(folders: list[Path], saved: int) -> list[tuple[Path, Stretch]]:
    """Each attempt with the steps that count: up to where a later one starts."""
    found, end = [], saved
    for folder in reversed(folders):
        about = _about(folder)
        files = (rank_file(folder, rank) for rank in range(about.ranks))
        done = max((line["step"] for file in files for line in _lines(file)), default=about.first_step)
        found.append((folder, Stretch(folder.name, about, about.first_step + 1, min(end, done), done)))
        end = min(end, about.first_step)
    return found[::-1]


def _counted(folder: Path, stretch: Stretch, problems: list[str]) -> Iterator[dict[str, Any]]:
    """All ranks' lines of the steps that count, step by step."""
    readers = [_lines(rank_file(folder, rank)) for rank in range(stretch.about.ranks)]
    for step in range(stretch.first, stretch.last + 1):
        lines = [next(reader, None) for reader in readers]
        missing = [rank for rank, line in enumerate(lines) if line is None or line["step"] != step]
        if missing:
            problems.append(f"{folder}: step {step} counts, and rank(s) {missing} have no line for it")
            return
        spans = sorted((line["first"], line["first"] + _size(line)) for line in lines if line is not None)
        last = stretch.about.first_sample + (step - stretch.about.first_step) * stretch.about.batch
        ends = [last - stretch.about.batch, *(end for _, end in spans)]
        if [first for first, _ in spans] != ends[:-1] or ends[-1] != last:
            problems.append(f"{folder}: step {step}: samples {spans} are not the global batch, each once")
        yield from (line for line in lines if line is not None)


def _lines_between(found: list[tuple[Path, Stretch]], first: int, end: int) -> Iterator[dict[str, Any]]:
    """What attempts had consumed of these samples in steps that do not count."""
    for folder, stretch in found:
        for rank in range(stretch.about.ranks):
            yield from (line for line in _lines(rank_file(folder, rank)) if first <= line["first"] < end)


class _Windows:
    """Which windows were seen in the epochs that are open."""

    def __init__(self, about: Attempt, whole: bool) -> None:
        self.about = about
        self.whole = whole  # from the first step on: then every epoch but the last must be complete
        self.open: dict[tuple[int, int], np.ndarray] = {}
        self.counts = [0] * len(about.windows)
        self.complete: set[tuple[int, int]] = set()

    def add(self, line: dict[str, Any], problems: list[str]) -> int:
        for key, windows in line["samples"].items():
            dataset, epoch = map(int, key.split("/"))
            size = self.about.windows[dataset]
            self.counts[dataset] += len(windows)
            if (dataset, epoch) in self.complete:
                problems.append(f"step {line['step']}: {self.about.paths[dataset]} epoch {epoch} was complete already")
                continue
            seen = self.open.setdefault((dataset, epoch), np.zeros(size, dtype=bool))
            for window in windows:
                if not 0 <= window < size or seen[window]:
                    where = f"{self.about.paths[dataset]} epoch {epoch} window {window}"
                    problems.append(f"step {line['step']}: {where} was consumed before, or is none")
                else:
                    seen[window] = True
            if seen.all():
                self.complete.add((dataset, epoch))
                del self.open[dataset, epoch]
            del problems[MOST_PROBLEMS:]
        return _size(line)

    def leave_out(self, line: dict[str, Any]) -> None:
        """These windows are not missed."""
        for key, windows in line["samples"].items():
            dataset, epoch = map(int, key.split("/"))
            if (dataset, epoch) not in self.complete:
                self.open.setdefault((dataset, epoch), np.zeros(self.about.windows[dataset], dtype=bool))[windows] = (
                    True
                )

    def summary(self, problems: list[str]) -> dict[str, list[int]]:
        for dataset, epoch in sorted(self.open) if self.whole else []:
            if any(other > epoch for which, other in (*self.open, *self.complete) if which == dataset):
                left = np.flatnonzero(~self.open[dataset, epoch])
                where = f"{self.about.paths[dataset]} epoch {epoch}"
                problems.append(f"{where}: {len(left)} windows were skipped, {left[:5].tolist()} among them")
        return {
            path: [self.counts[number], sum(dataset == number for dataset, _ in self.complete)]
            for number, path in enumerate(self.about.paths)
        }


def _about(folder: Path) -> Attempt:
    try:
        data = json.loads((folder / ABOUT).read_text())
        found: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
        return Attempt(**found)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{folder / ABOUT}: cannot be read ({error}); the ledger is damaged") from None


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """Whole lines; the last one may be torn by a crash, and is then of a step that nothing followed."""
    if not file.exists():
        return
    with file.open() as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith("\n"):
                return
            try:
                yield json.loads(line)
            except ValueError:
                raise DataError(f"{file}: line {number} is damaged; the ledger proves nothing beyond it") from None


def _size(line: dict[str, Any]) -> int:
    return sum(map(len, line["samples"].values()))
