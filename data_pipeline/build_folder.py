"""Where a build lies until it is whole, and what a killed one left there for the next."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_pipeline.errors import DataError
from data_pipeline.files import write_atomically
from data_pipeline.manifest import ShardEntry
from data_pipeline.shard_index import check_shard_file
from data_pipeline.shard_writer import FinishedShard

RECIPE_FILE = "recipe.json"
JOURNAL_FILE = "finished.jsonl"  # one finished shard a line


class BuildFolder:
    """`.NAME.building` beside the dataset to come: `dataset/`, the recipe it follows, and which shards are finished.

    Attributes: `dataset` (the folder that becomes the dataset), `finished` (of each split, the shards that an earlier
    run of the same recipe left whole).
    """

    def __init__(self, folder: Path, recipe: dict[str, Any]) -> None:
        self.dataset = folder / "dataset"
        self.finished: dict[str, list[FinishedShard]] = {}
        self._folder = folder
        self._journal = folder / JOURNAL_FILE
        self._recipe = json.dumps(recipe)
        if _text(folder / RECIPE_FILE) == self._recipe:
            self._take_up()

    def start(self) -> None:
        """Remove what is neither finished nor a record of it, and write down what this run goes on from."""
        if not any(self.finished.values()):
            shutil.rmtree(self.dataset, ignore_errors=True)  # empty folders of splits too
        self._remove_the_rest()
        self.dataset.mkdir(exist_ok=True)
        write_atomically(self._folder / RECIPE_FILE, self._recipe.encode())
        lines = [_line(split, shard) for split, shards in self.finished.items() for shard in shards]
        write_atomically(self._journal, b"".join(lines))

    def record(self, split: str, shard: FinishedShard) -> None:
        """Note that a shard is whole; a later run of the same recipe keeps it."""
        self.finished.setdefault(split, []).append(shard)
        with self._journal.open("ab") as file:
            file.write(_line(split, shard))
            file.flush()
            os.fsync(file.fileno())

    def clear(self) -> None:
        """After a failure: give back the space of what is half-written, and of everything where no shard is whole."""
        if not any(self.finished.values()):
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        for path in self.dataset.glob("*/.*"):
            path.unlink(missing_ok=True)

    def _take_up(self) -> None:
        """Read the journal up to the first line that was not written whole or whose shard is not there."""
        for line in _text(self._journal).splitlines():
            try:
                found = json.loads(line)
                split, entry = found.pop("split"), ShardEntry(**found.pop("entry"))
                check_shard_file(self.dataset / split, entry)
                if not (self.dataset / split / entry.index).exists():
                    return
                self.finished.setdefault(split, []).append(FinishedShard(entry=entry, **found))
            except (ValueError, KeyError, TypeError, DataError):
                return

    def _remove_the_rest(self) -> None:
        kept = {
            self.dataset / split / name
            for split, shards in self.finished.items()
            for shard in shards
            for name in (shard.entry.file, shard.entry.index)
        }
        kept |= {self._folder / RECIPE_FILE, self._journal}  # replaced whole, so that a full disk loses neither
        for path in [path for path in self._folder.rglob("*") if path.is_file()]:
            if path not in kept:
                path.unlink()


@contextmanager
def building(out: Path, recipe: dict[str, Any]) -> Iterator[BuildFolder]:
    """A folder to build in: its `dataset` becomes `out` in one rename on success, finished shards stay on failure.

    Raises `DataError` when another process builds `out`.
    """
    folder = building_folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)  # a lock dies with its process, where a lock file would stay behind
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{out}: another process is building it; wait for it or choose another --out") from None
        build = BuildFolder(folder, recipe)
        try:
            build.start()
            yield build
            build.dataset.rename(out)
        except BaseException:
            build.clear()
            raise
        shutil.rmtree(folder)
    finally:
        os.close(lock)


def building_folder(out: Path) -> Path:
    """The hidden neighbour in which `out` is built."""
    return out.parent / f".{out.name}.building"


def _line(split: str, shard: FinishedShard) -> bytes:
    return json.dumps({"split": split, **asdict(shard)}).encode() + b"\n"


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
