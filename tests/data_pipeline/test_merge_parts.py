"""Parts of a job array make one dataset of the same documents; parts that do not belong together do not."""

import shutil
from pathlib import Path

import pytest

from data_pipeline.errors import DataError
from data_pipeline.manifest import load_manifest
from data_pipeline.merge_parts import merge_parts
from data_pipeline.stream import TokenStream
from data_pipeline.tokenizer import Tokenizer
from data_pipeline.verify import verify_dataset
from data_pipeline.write_shards import build_dataset, part_folder


@pytest.fixture
def files(tmp_path: Path, texts: list[str]) -> list[str]:
    for k in range(5):
        (tmp_path / f"{k}.txt").write_text(texts[k] + f" number {k}")
    return [str(tmp_path / f"{k}.txt") for k in range(5)]


def documents(folder: Path) -> list[str]:
    tokenizer = Tokenizer.load(folder / "tokenizer.model")
    ids = TokenStream(folder, 1, 0).tokens(0, load_manifest(folder).tokens).tolist()
    found: list[list[int]] = [[]]
    for token in ids:
        found[-1].append(token)
        if token == tokenizer.eos_id:
            found.append([])
    return sorted(tokenizer.decode(document) for document in found[:-1])


@pytest.mark.filterwarnings("ignore")
def test_merged_parts_hold_every_document_once(files: list[str], model: Path, tmp_path: Path) -> None:
    import webdataset

    for number in (3, 1, 2):
        build_dataset(files, model, tmp_path / "parts", part=(number, 3))
    merged = merge_parts(tmp_path / "parts", tmp_path / "out")["train"]
    build_dataset(files, model, tmp_path / "whole")
    assert documents(tmp_path / "out/train") == documents(tmp_path / "whole/train")
    assert len(merged.shards) == 3
    assert verify_dataset(tmp_path / "out/train") == []
    urls = [str(tmp_path / "out/train" / shard.file) for shard in merged.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))  # pyright: ignore
    assert len(samples) == 3
    with pytest.raises(DataError, match="out: exists"):
        merge_parts(tmp_path / "parts", tmp_path / "out")


def test_parts_that_do_not_belong_together(files: list[str], model: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    with pytest.raises(DataError, match="holds no parts"):
        merge_parts(parts, tmp_path / "out")
    build_dataset(files, model, parts, part=(1, 2))
    with pytest.raises(DataError, match=r"part 2 of 2 is missing; build it with --part 2/2"):
        merge_parts(parts, tmp_path / "out")
    build_dataset(files, model, parts, part=(2, 2), seed=5)
    with pytest.raises(DataError, match=r"part-00002-of-00002: built with other seed than"):
        merge_parts(parts, tmp_path / "out")
    shutil.rmtree(part_folder(parts, (2, 2)))
    build_dataset(files, model, parts, part=(2, 3))
    with pytest.raises(DataError, match="built with other number of parts"):
        merge_parts(parts, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_parts(files: list[str], model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--part 0/2: parts are counted from 1"):
        build_dataset(files, model, tmp_path / "parts", part=(0, 2))
    with pytest.raises(DataError, match=r"--part 1/9: the input is 5 file\(s\)"):
        build_dataset(files, model, tmp_path / "parts", part=(1, 9))
