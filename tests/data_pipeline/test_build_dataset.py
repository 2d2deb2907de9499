"""The bytes of a dataset: complete, deterministic, readable by plain webdataset, never half there."""

import filecmp
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import write_shards
from data_pipeline.build_folder import building
from data_pipeline.errors import DataError
from data_pipeline.inspect_dataset import inspect_dataset
from data_pipeline.manifest import load_manifest, token_dtype
from data_pipeline.select_documents import Skipped
from data_pipeline.shard_index import ShardIndex, walk_tar
from data_pipeline.stream import TokenStream
from data_pipeline.tokenizer import Tokenizer
from data_pipeline.verify import verify_dataset
from data_pipeline.write_shards import Progress, build_dataset


def all_tokens(folder: Path) -> list[int]:
    manifest = load_manifest(folder)
    return TokenStream(folder, 1, 0).tokens(0, manifest.tokens).tolist()


def decoded(folder: Path) -> list[str]:
    """Every document's text, told apart by the end-of-document token alone."""
    tokenizer = Tokenizer.load(folder / "tokenizer.model")
    found: list[list[int]] = [[]]
    for token in all_tokens(folder):
        if token == tokenizer.eos_id:
            found.append([])
        else:
            found[-1].append(token)
    assert found.pop() == []
    return [tokenizer.decode(ids) for ids in found]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_splits_are_disjoint_and_cover_all_text_in_order(dataset: Path, texts: list[str]) -> None:
    train, held_out = decoded(dataset / "train"), decoded(dataset / "held_out")
    assert not set(train) & set(held_out)
    assert sorted(train + held_out) == sorted(texts)
    assert train == [text for text in texts if text in set(train)]
    assert 0.05 < len(held_out) / len(texts) < 0.4


def test_copies_of_a_document_stay_on_one_side(model: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"document {k % 20}"}) for k in range(100)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    build_dataset([str(tmp_path / "a.jsonl")], model, tmp_path / "out", held_out=0.5)
    train, held_out = decoded(tmp_path / "out/train"), decoded(tmp_path / "out/held_out")
    assert not set(train) & set(held_out)
    assert len(train) + len(held_out) == 100


def test_the_manifest_counts_what_is_there(dataset: Path, texts: list[str]) -> None:
    train, held_out = load_manifest(dataset / "train"), load_manifest(dataset / "held_out")
    assert train.documents + held_out.documents == len(texts)
    assert len(train.shards) > 2
    assert all(shard.tokens >= 4000 for shard in train.shards[:-1])
    for name, manifest in (("train", train), ("held_out", held_out)):
        expected = [
            f"{stem}{end}"
            for k in range(len(manifest.shards))
            for stem in [f"tokens-{k:06d}"]
            for end in (".index.npz", ".tar")
        ]
        assert files(dataset / name) == sorted(["manifest.json", "tokenizer.model", *expected])
        assert verify_dataset(dataset / name) == []
        for shard in manifest.shards:
            index = ShardIndex.load(dataset / name / shard.index)
            offsets, sizes = walk_tar(dataset / name / shard.file)
            np.testing.assert_array_equal(index.offsets, offsets)
            np.testing.assert_array_equal(index.sizes, sizes)
            assert offsets[0] == 512  # plain headers only
    assert train.hash() != held_out.hash()


def test_worker_count_leaves_no_trace(
    corpus: Path, model: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_pipeline.select_documents.CHUNK_CHARACTERS", 2000)
    build_dataset([str(corpus)], model, tmp_path / "two", workers=2, held_out=0.2, shard_tokens=4000)
    assert files(tmp_path / "two") == files(dataset)
    for name in files(dataset):
        assert filecmp.cmp(dataset / name, tmp_path / "two" / name, shallow=False), name


def test_members_hold_many_documents(
    corpus: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_pipeline.shard_writer.MEMBER_BYTES", 3000)
    build_dataset([str(corpus)], model, tmp_path / "out")
    (shard,) = load_manifest(tmp_path / "out/train").shards
    assert shard.members > 5
    assert shard.documents > 4 * shard.members
    sizes = ShardIndex.load(tmp_path / "out/train" / shard.index).sizes
    assert (sizes[:-1] >= 3000).all()
    assert verify_dataset(tmp_path / "out/train") == []


@pytest.mark.filterwarnings("ignore")
def test_plain_webdataset_reads_the_shards(dataset: Path) -> None:
    import webdataset

    folder = dataset / "train"
    manifest = load_manifest(folder)
    urls = [str(folder / shard.file) for shard in manifest.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))  # pyright: ignore
    assert len({sample["__key__"] for sample in samples}) == sum(shard.members for shard in manifest.shards)
    read = np.concatenate([np.frombuffer(sample["bin"], dtype="<u2") for sample in samples])
    assert read.tolist() == all_tokens(folder)


def test_empty_documents_are_counted_and_progress_is_told(
    corpus: Path, model: Path, texts: list[str], tmp_path: Path
) -> None:
    seen: list[Progress] = []
    summary = build_dataset([str(corpus)], model, tmp_path / "out", progress=seen.append)
    assert summary.skipped == Skipped(empty=2)
    tokens = summary.splits["train"].tokens
    assert seen[-1] == Progress(len(texts), tokens, corpus.stat().st_size, corpus.stat().st_size)
    assert build_dataset([str(corpus)], model, tmp_path / "out").skipped == Skipped(empty=2)


def test_a_rerun_keeps_the_dataset_and_another_recipe_is_refused(corpus: Path, model: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "pages.jsonl", tmp_path / "out"
    shutil.copy(corpus, source)
    first = build_dataset([str(source)], model, out)
    written = (out / "train/manifest.json").stat().st_mtime_ns
    again = build_dataset([str(source)], model, out, workers=2)
    assert (first.reused, again.reused) == (False, True)
    assert again.splits == first.splits
    assert (out / "train/manifest.json").stat().st_mtime_ns == written
    with pytest.raises(DataError, match="built with other held_out"):
        build_dataset([str(source)], model, out, held_out=0.5)
    source.write_text('{"text": "other text"}\n')
    with pytest.raises(DataError, match="built with other inputs; choose another --out"):
        build_dataset([str(source)], model, out)
    assert decoded(out / "train")


def test_an_existing_folder_is_never_touched(corpus: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with pytest.raises(DataError, match="exists and is no dataset"):
        build_dataset([str(corpus)], model, tmp_path / "mine")
    assert files(tmp_path) == ["mine/notes.txt"]
    (tmp_path / "empty").mkdir()
    build_dataset([str(corpus)], model, tmp_path / "empty")
    assert decoded(tmp_path / "empty/train")


def test_a_failed_build_leaves_nothing(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\nbroken\n')
    for workers in (1, 2):
        with pytest.raises(DataError, match="line 2: not JSON"):
            build_dataset([str(tmp_path / "a.jsonl")], model, tmp_path / "out", workers=workers)
    assert files(tmp_path) == ["a.jsonl"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_killed_build_is_not_seen_and_the_next_one_succeeds(
    corpus: Path, model: Path, dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    script = """
import os, sys
from data_pipeline import shard_writer
from data_pipeline.write_shards import build_dataset
close, closed = shard_writer.ShardWriter._close_shard, []
def die_after_two(self, number):
    close(self, number)
    closed.append(1)
    if len(closed) == 2:
        os.kill(os.getpid(), 9)
shard_writer.ShardWriter._close_shard = die_after_two
build_dataset([sys.argv[1]], sys.argv[2], sys.argv[3], held_out=0.2, shard_tokens=4000)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(write_shards.__file__).parents[1])}
    command = [sys.executable, "-c", script, str(corpus), str(model), str(out)]
    assert subprocess.run(command, env=environment, capture_output=True).returncode == -9
    assert not out.exists()
    assert list(tmp_path.rglob("*.tar"))
    build_dataset([str(corpus)], model, out, held_out=0.2, shard_tokens=4000)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert all(filecmp.cmp(dataset / name, out / name, shallow=False) for name in files(dataset))


def test_two_builds_at_once(corpus: Path, model: Path, tmp_path: Path) -> None:
    with (
        building(tmp_path / "out", {}),
        pytest.raises(DataError, match="another process is building it"),
    ):
        build_dataset([str(corpus)], model, tmp_path / "out")


def test_a_split_without_documents(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one document\n")
    with pytest.raises(DataError, match="split held_out; raise --held-out"):
        build_dataset([str(tmp_path / "a.txt")], model, tmp_path / "out", held_out=1e-9)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match="split train; check the --input"):
        build_dataset([str(tmp_path / "a.txt")], model, tmp_path / "out")
    with pytest.raises(DataError, match=r"--held-out 1\.0: use a fraction in"):
        build_dataset([str(tmp_path / "a.txt")], model, tmp_path / "out", held_out=1.0)


def test_dtype_follows_the_vocabulary() -> None:
    assert token_dtype(1 << 16) == "uint16"
    assert token_dtype((1 << 16) + 1) == "uint32"


def test_inspection(dataset: Path) -> None:
    found = inspect_dataset(dataset / "train", samples=4)
    documents = decoded(dataset / "train")
    assert sum(count for _, count in found.histogram) == len(documents)
    assert len(found.samples) == 4
    assert all(documents[number].startswith(text) for number, text in found.samples)
    assert found.quantiles == tuple(sorted(found.quantiles))
    tokenizer = Tokenizer.load(dataset / "train/tokenizer.model")
    assert found.quantiles[-1] == 1 + max(len(tokenizer.encode(text)) for text in documents)
