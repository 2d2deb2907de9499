"""Build a dataset: text to `OUT/train` and `OUT/held_out`, visible only once it is whole."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.build_folder import BuildFolder, building, building_folder
from data_pipeline.document import TEXT_KEY, ErrorMode
from data_pipeline.encode_documents import EncodedBatch, encode_documents
from data_pipeline.errors import DataError
from data_pipeline.files import write_atomically
from data_pipeline.manifest import FORMAT_VERSION, TOKENIZER_FILE, Manifest, load_manifest, token_dtype
from data_pipeline.read_text import documents, find_files, fingerprint, part_of, size_of
from data_pipeline.select_documents import Selection, Skipped, select_documents
from data_pipeline.shard_index import check_shard_file
from data_pipeline.shard_writer import ShardWriter
from data_pipeline.tokenizer import Tokenizer

TRAIN, HELD_OUT = "train", "held_out"
BUILD_FILE = "build.json"  # what the folder was built from: tells a rerun from a clash
SHARD_TOKENS = 1 << 26  # 128 MiB of uint16


@dataclass(frozen=True)
class Progress:
    """So far: documents and tokens written by this run; bytes of the inputs' files read, of how many."""

    documents: int
    tokens: int
    read: int
    total: int


@dataclass(frozen=True)
class BuildSummary:
    """The dataset in `folder`: the manifest of each split, what was left out, and whether it was there already.

    `kept_shards`: shards that an earlier run had finished before it ended.
    """

    folder: Path
    splits: dict[str, Manifest]
    skipped: Skipped
    reused: bool
    kept_shards: int = 0


def build_dataset(
    inputs: list[str],
    tokenizer_path: Path | str,
    out: Path | str,
    *,
    workers: int = 1,
    held_out: float = 0.0,
    errors: ErrorMode = "strict",
    text_key: str = TEXT_KEY,
    min_characters: int = 0,
    deduplicate: bool = False,
    shard_tokens: int = SHARD_TOKENS,
    seed: int = 0,
    part: tuple[int, int] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> BuildSummary:
    """Tokenise `inputs` (as in `read_text.documents`) into `out/train` and, with `held_out` > 0, `out/held_out`.

    Each is a dataset folder of its own: tars, sidecars, `tokenizer.model`, `manifest.json`. Which documents are taken,
    and on which side each goes, is `select_documents.Selection`'s. `workers` processes tokenise; the bytes written do
    not depend on their number. `part=(i, n)`: only the i-th of n shares of the input files, i counted from 1, into
    the folder `part_folder(out, part)`; `merge_parts` makes one dataset of all of them.

    The dataset appears by one rename at the end. A run that was killed is gone on with: its finished shards are kept
    where inputs and parameters are the same, and the result is the same to the byte. A dataset that was already built
    from these is returned as it is; any other existing one raises `DataError`, as do bad text, a bad tokenizer, a split
    that got no document, and a disk that is full.
    """
    out, tokenizer = Path(out), Tokenizer.load(tokenizer_path)
    _check_settings(workers, shard_tokens, held_out, min_characters)
    selection = Selection(held_out, min_characters, deduplicate, seed)
    parameters = _parameters(selection, errors, shard_tokens, text_key)
    files = find_files(inputs)
    if part is not None:
        files, out, parameters = part_of(files, part), part_folder(out, part), {**parameters, "part": list(part)}
    made_by = {"format_version": FORMAT_VERSION, "tokenizer_sha256": tokenizer.sha256}
    recipe = {**made_by, **parameters, "inputs": fingerprint(inputs)}
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        return _reuse(out, recipe)
    build = _Build(tokenizer, tuple(files), parameters, selection, progress)
    with _full_disk_told(out), building(out, recipe) as folder:
        kept_shards = sum(map(len, folder.finished.values()))
        skipped = build.run(folder, documents(files, errors, text_key), workers)
        write_atomically(folder.dataset / BUILD_FILE, _json({**recipe, **_counts(skipped)}))
    splits = {name: load_manifest(out / name) for name in _splits(selection)}
    return BuildSummary(out, splits, skipped, reused=False, kept_shards=kept_shards)


@contextmanager
def _full_disk_told(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kept = "; its finished shards are kept, and the same command goes on" if building_folder(out).exists() else ""
        raise DataError(
            f"{out}: cannot be written ({error.strerror}); free space or choose another --out{kept}"
        ) from error


def part_folder(out: Path, part: tuple[int, int]) -> Path:
    """Where part i of n lies inside `out`."""
    return out / f"part-{part[0]:05d}-of-{part[1]:05d}"


@dataclass(frozen=True)
class _Build:
    """One run over the documents of one dataset."""

    tokenizer: Tokenizer
    files: tuple[str, ...]
    parameters: dict[str, Any]
    selection: Selection
    progress: Callable[[Progress], None] | None

    def run(self, folder: BuildFolder, texts: Iterator[Any], workers: int) -> Skipped:
        """Write every split into `folder.dataset`, its manifest last; return what was left out."""
        dtype, skipped = token_dtype(self.tokenizer.vocab_size), Skipped()
        writers = {name: self._start_split(folder, name) for name in _splits(self.selection)}
        ends = [folder.finished[name][-1].next_number if folder.finished.get(name) else 0 for name in (TRAIN, HELD_OUT)]
        batches = select_documents(texts, self.selection, skipped, done=(ends[0], ends[1]))
        model = folder.dataset / TRAIN / TOKENIZER_FILE
        number = self._write(encode_documents(batches, model, dtype, workers=workers), writers)
        for name, writer in writers.items():
            self._finish_split(folder.dataset / name, writer, dtype, number)
            skipped.empty += writer.blank
        return skipped

    def _start_split(self, folder: BuildFolder, name: str) -> ShardWriter:
        split = folder.dataset / name
        split.mkdir(exist_ok=True)
        write_atomically(split / TOKENIZER_FILE, self.tokenizer.content)
        part = self.parameters.get("part")
        return ShardWriter(
            split,
            self.parameters["shard_tokens"],
            prefix="" if part is None else f"{part[0]:05d}-",
            finished=folder.finished.get(name, ()),
            on_close=lambda shard: folder.record(name, shard),
        )

    def _write(self, batches: Iterator[EncodedBatch], writers: dict[str, ShardWriter]) -> int:
        """Hand each document to its split, in order; return the number of documents in the inputs."""
        written = tokens = number = 0
        total = size_of(self.files)
        for batch in batches:
            start = 0
            for end, held_out, number in zip(
                np.cumsum(batch.lengths).tolist(), batch.source.held_out, batch.source.numbers, strict=True
            ):
                writers[HELD_OUT if held_out else TRAIN].add(batch.tokens[start:end], number)
                start = end
            number = batch.source.next_number
            written, tokens = written + len(batch.lengths), tokens + len(batch.tokens)
            if self.progress is not None:
                self.progress(Progress(written, tokens, batch.source.read, total))
        return number

    def _finish_split(self, folder: Path, writer: ShardWriter, dtype: str, number: int) -> None:
        shards = writer.finish(number)
        if not shards and "part" not in self.parameters:
            remedy = "raise --held-out or give more documents" if folder.name == HELD_OUT else "check the --input files"
            raise DataError(f"no document with text went to the split {folder.name}; {remedy}")
        Manifest(
            format_version=FORMAT_VERSION,
            tokenizer=TOKENIZER_FILE,
            tokenizer_sha256=self.tokenizer.sha256,
            vocab_size=self.tokenizer.vocab_size,
            bos_id=self.tokenizer.bos_id,
            eos_id=self.tokenizer.eos_id,
            dtype=dtype,
            documents=sum(shard.documents for shard in shards),
            tokens=sum(shard.tokens for shard in shards),
            sources=self.files,
            build={"split": folder.name, **self.parameters},
            shards=shards,
        ).save(folder)


def _reuse(out: Path, recipe: dict[str, Any]) -> BuildSummary:
    """The dataset already at `out` when it follows the same recipe, its files present; else `DataError`."""
    try:
        found = json.loads((out / BUILD_FILE).read_text())
        skipped = Skipped(*(found.pop(name, 0) for name in _counts(Skipped())))
        found["format_version"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{out}: exists and is no dataset built here; choose another --out") from None
    wanted = json.loads(_json(recipe))
    if different := [name for name in sorted({*wanted, *found}) if found.get(name) != wanted.get(name)]:
        raise DataError(
            f"{out}: holds a dataset built with other {', '.join(different)}; choose another --out, or remove this one"
        )
    splits = {name: load_manifest(out / name) for name in (TRAIN, HELD_OUT) if (out / name).exists()}
    for name, manifest in splits.items():
        for shard in manifest.shards:
            check_shard_file(out / name, shard)
    shutil.rmtree(building_folder(out), ignore_errors=True)  # of a run killed between its last two steps
    return BuildSummary(out, splits, skipped, reused=True)


def _parameters(selection: Selection, errors: ErrorMode, shard_tokens: int, text_key: str) -> dict[str, Any]:
    """What the recipe and the manifest record. Rules at their defaults leave no trace, so that datasets from before a
    rule existed are still recognised."""
    always = {"held_out": selection.held_out, "errors": errors, "shard_tokens": shard_tokens, "seed": selection.seed}
    rules = {
        "text_key": text_key if text_key != TEXT_KEY else None,
        "min_characters": selection.min_characters,
        "deduplicate": selection.deduplicate,
    }
    return always | {name: value for name, value in rules.items() if value}


def _check_settings(workers: int, shard_tokens: int, held_out: float, min_characters: int) -> None:
    for name, value, rule, good in (
        ("--workers", workers, "at least 1", workers >= 1),
        ("--shard-tokens", shard_tokens, "at least 1", shard_tokens >= 1),
        ("--held-out", held_out, "a fraction in [0, 1)", 0 <= held_out < 1),
        ("--min-characters", min_characters, "at least 0", min_characters >= 0),
    ):
        if not good:
            raise DataError(f"{name} {value}: use {rule}")


def _splits(selection: Selection) -> tuple[str, ...]:
    return (TRAIN, HELD_OUT) if selection.held_out > 0 else (TRAIN,)


def _counts(skipped: Skipped) -> dict[str, int]:
    return {f"{name}_documents": count for name, count in asdict(skipped).items()}


def _json(data: dict[str, Any]) -> bytes:
    return json.dumps(data, indent=2).encode() + b"\n"
