"""What is missing, damaged or foreign is named before a token of it is used."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.background_check import BackgroundCheck
from data_pipeline.errors import DataError
from data_pipeline.manifest import check_tokenizer, dataset_folders, load_manifest
from data_pipeline.shard_index import ShardIndex, walk_tar
from data_pipeline.stream import TokenStream
from data_pipeline.tokenizer import Tokenizer
from data_pipeline.train_tokenizer import train_tokenizer
from data_pipeline.verify import verify_dataset

TAR, INDEX = "tokens-000001.tar", "tokens-000001.index.npz"


@pytest.fixture
def folder(dataset: Path, tmp_path: Path) -> Path:
    """A copy of the training split to damage."""
    return Path(shutil.copytree(dataset / "train", tmp_path / "train"))


def read_all(folder: Path) -> np.ndarray:
    stream = TokenStream(folder, 64, seed=0)
    return stream.windows(np.arange(stream.num_windows))


def poke(path: Path, offset: int, data: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(content)


def test_folder_without_a_dataset(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none: no such data folder; build one with `armd data build`"):
        load_manifest(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: the data folder is empty"):
        load_manifest(tmp_path / "empty")
    with pytest.raises(DataError, match="empty"):
        dataset_folders(tmp_path / "empty")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match="is a file"):
        load_manifest(tmp_path / "a.txt")
    with pytest.raises(DataError, match=r"holds several datasets; name one of them: .*held_out, .*train"):
        load_manifest(dataset)
    assert list(dataset_folders(dataset)) == ["held_out", "train"]


def test_interrupted_build(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"has no manifest\.json, so it is no dataset or its build was interrupted"):
        TokenStream(folder, 64, seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "format version 99, and this code reads version 1"),
        ({"format_version": None}, "format version None"),
        ({"tokens": 5}, "is damaged"),
        ({"shards": [{"file": "x"}]}, "is damaged"),
        ({"surprise": 1}, "is damaged"),
        ({"dtype": "int8"}, "is damaged"),
    ],
)
def test_bad_manifest(folder: Path, change: dict[str, object], message: str) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=message) as error:
        load_manifest(folder)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", ["", "[]", "{", "{}"])
def test_manifest_that_is_none(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json"):
        load_manifest(folder)


def test_another_tokenizer(folder: Path, corpus: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    manifest = load_manifest(folder)
    check_tokenizer(manifest, tokenizer, folder)
    other = Tokenizer.load(train_tokenizer([str(corpus)], tmp_path / "other.model", 300).path)
    with pytest.raises(DataError, match=r"made by another tokenizer \(.*340 ids\) than .*other\.model .*300 ids"):
        check_tokenizer(manifest, other, folder)


def test_truncated_tar(folder: Path) -> None:
    path = folder / TAR
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(DataError, match=f"{TAR}: truncated or changed"):
        TokenStream(folder, 64, seed=0)
    assert any("truncated" in problem for problem in verify_dataset(folder))


def test_missing_shard_and_missing_index(folder: Path) -> None:
    (folder / INDEX).unlink()
    with pytest.raises(DataError, match=f"{INDEX}: the shard's index is missing"):
        read_all(folder)
    (folder / TAR).unlink()
    with pytest.raises(DataError, match=f"{TAR}: the shard is missing"):
        TokenStream(folder, 64, seed=0)
    assert [problem.split(":")[0] for problem in verify_dataset(folder)] == [str(folder / TAR)]


def test_index_of_another_tar(folder: Path) -> None:
    shutil.copy(folder / "tokens-000000.index.npz", folder / INDEX)
    with pytest.raises(DataError, match=f"{INDEX}: the index of another tar than {TAR}"):
        read_all(folder)
    assert any("index of another tar" in problem for problem in verify_dataset(folder))


def test_damaged_index(folder: Path) -> None:
    (folder / INDEX).write_bytes(b"not an archive")
    with pytest.raises(DataError, match=f"{INDEX}: the shard's index is damaged"):
        read_all(folder)
    assert verify_dataset(folder)


def flip(path: Path) -> None:
    """One bit of one token, which stays in the vocabulary."""
    place = int(walk_tar(path)[0][0]) + 100
    poke(path, place, bytes([path.read_bytes()[place] ^ 1]))


def test_flipped_byte_is_found_by_verify(folder: Path) -> None:
    flip(folder / TAR)
    (problem,) = [problem for problem in verify_dataset(folder) if "checksum" in problem]
    assert problem.startswith(str(folder / TAR))


def test_flipped_byte_is_found_in_the_background(folder: Path) -> None:
    stream = TokenStream(folder, 64, seed=0)
    sound = BackgroundCheck([stream])
    sound.join()
    sound.raise_if_damaged()
    flip(folder / TAR)
    damaged = BackgroundCheck([stream])
    damaged.join()
    with pytest.raises(DataError, match=f"{TAR}: checksum .* instead of .*training has read them; restore it"):
        damaged.raise_if_damaged()
    (folder / TAR).unlink()
    gone = BackgroundCheck([stream])
    gone.join()
    with pytest.raises(DataError, match=f"{TAR}: cannot be read any more"):
        gone.raise_if_damaged()


def test_token_outside_the_vocabulary(folder: Path) -> None:
    offsets, _ = walk_tar(folder / TAR)
    poke(folder / TAR, int(offsets[0]) + 2 * 50, b"\xff\xff")
    with pytest.raises(DataError, match=f"{TAR}: holds token id 65535, and the vocabulary has 340"):
        read_all(folder)
    assert any("token id 65535" in problem for problem in verify_dataset(folder))


def test_moved_document_end_is_found_by_verify(folder: Path) -> None:
    offsets, _ = walk_tar(folder / TAR)
    poke(folder / TAR, int(offsets[0]), b"\x03\x00")
    assert any("does not end its documents" in problem for problem in verify_dataset(folder))


def test_damaged_tar_header_is_found_by_verify(folder: Path) -> None:
    offsets, _ = walk_tar(folder / TAR)
    poke(folder / TAR, int(offsets[0]) - 512 + 124, b"not octal!!")
    problems = verify_dataset(folder)
    assert any("damaged tar header at byte 0" in problem for problem in problems)
    assert any("checksum" in problem for problem in problems)


def test_index_that_disagrees_with_the_headers(folder: Path) -> None:
    index = ShardIndex.load(folder / INDEX)
    ShardIndex(index.offsets + 512, index.sizes, index.document_lengths, index.tar_sha256).save(folder / INDEX)
    problems = verify_dataset(folder)
    assert any("disagrees with the headers" in problem for problem in problems)
    assert any("checksum" in problem and INDEX in problem for problem in problems)


def test_changed_tokenizer_copy_is_found_by_verify(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(b"")
    assert any("tokenizer.model: checksum" in problem for problem in verify_dataset(folder))
