"""Compressed text, parquet and webdataset tars: the same documents as plain text, and damage told by name."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from data_pipeline.document import Document
from data_pipeline.errors import DataError
from data_pipeline.read_text import documents

TEXTS = ["one\ntwo", "", "café 🎉", "four " * 20_000]


def compressed(data: bytes, kind: str) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, kind) as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def lines(texts: list[str], key: str = "text") -> bytes:
    return b"".join(json.dumps({key: text}).encode() + b"\n" for text in texts)


def tar(members: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return sink.getvalue()


def write_parquet(path: Path, texts: list[str | None], **more: list[int]) -> None:
    parquet.write_table(pyarrow.table({"text": texts, **more}), path, row_group_size=2)


def read(path: Path, **settings: str) -> list[str]:
    return [document.text for document in documents([str(path)], **settings)]  # pyright: ignore


def refusal(path: Path, **settings: str) -> str:
    with pytest.raises(DataError) as error:
        read(path, **settings)
    assert str(error.value).startswith(str(path))
    return str(error.value)


@pytest.mark.parametrize(("suffix", "kind"), [(".gz", "gzip"), (".zst", "zstd")])
def test_compressed_files_read_as_plain_ones(suffix: str, kind: str, tmp_path: Path) -> None:
    data = lines(TEXTS)
    plain, packed = tmp_path / "a.jsonl", tmp_path / f"a.jsonl{suffix}"
    plain.write_bytes(data)
    packed.write_bytes(compressed(data[:50], kind) + compressed(data[50:], kind))  # two members, one after the other
    assert read(packed) == read(plain) == TEXTS
    (tmp_path / f"b.txt{suffix}").write_bytes(compressed("\ufeffcafé\r\n".encode(), kind))
    assert read(tmp_path / f"b.txt{suffix}") == ["café\r\n"]
    (tmp_path / f"c.tar{suffix}").write_bytes(compressed(tar({"k.txt": b"in a tar"}), kind))
    assert read(tmp_path / f"c.tar{suffix}") == ["in a tar"]


def test_gzip_of_another_writer(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wb") as file:
        file.write(lines(TEXTS))
    assert read(tmp_path / "a.jsonl.gz") == TEXTS


@pytest.mark.parametrize(("suffix", "kind"), [(".gz", "gzip"), (".zst", "zstd")])
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.tar"])
def test_compressed_file_cut_short_or_damaged(name: str, suffix: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / (name + suffix)
    plain = tar({"k.txt": lines(TEXTS)}) if name == "a.tar" else lines(TEXTS)
    data = compressed(plain, kind)
    path.write_bytes(data[:-6])
    assert "cut short" in refusal(path)
    path.write_bytes(data[:20] + b"\xff\xff\xff\xff" + data[24:])
    assert "damaged" in refusal(path) or "not UTF-8" in refusal(path)
    path.write_bytes(b"this was never compressed, whatever its name says")
    assert "damaged" in refusal(path)


def test_not_utf8_in_a_compressed_file_names_its_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"a" * 5000 + b"\xff"))
    assert "not UTF-8 at byte 5000" in refusal(path)
    assert read(path, errors="replace") == ["a" * 5000 + "\ufffd"]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, ["one", None, "", "café"], id=[1, 2, 3, 4])
    found = list(documents([str(path)]))
    assert found == [Document(text, f"{path}:{k}") for k, text in enumerate(["one", "", "", "café"], start=1)]
    assert [document.read for document in found][-1] == path.stat().st_size


def test_parquet_that_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, ["one"], id=[1])
    assert "no column 'body'; it has text, id; name one with --text-key" in refusal(path, text_key="body")
    assert "column 'id' holds int64, not strings" in refusal(path, text_key="id")
    whole = path.read_bytes()
    for damaged in (whole[:-20], b"", b"PAR1 no"):
        path.write_bytes(damaged)
        assert "cannot be read as parquet" in refusal(path)


def test_text_key(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(["one"], "body"))
    assert read(path, text_key="body") == ["one"]
    assert "line 1: no \"text\" key with a string; it has 'body'" in refusal(path)
    assert "--text-key" in refusal(path)


def test_tar_of_text(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    members = {
        "deep/1.txt": "café".encode(),
        "deep/1.json": b'{"caption": "metadata of 1, no text of its own"}',
        "2.jpg": b"\xff\xd8",
        "2.json": b'{"text": "two"}',
        "3.txt": b"",
    }
    path.write_bytes(tar(members))
    found = list(documents([str(path)]))
    assert [(document.text, document.source) for document in found] == [
        ("café", f"{path}:deep/1"),
        ("two", f"{path}:2"),
        ("", f"{path}:3"),
    ]


def test_webdatasets_own_tar(tmp_path: Path) -> None:
    from webdataset.writer import TarWriter

    with TarWriter(str(tmp_path / "a.tar")) as writer:
        for k, text in enumerate(TEXTS):
            writer.write({"__key__": f"{k:04d}", "txt": text})
    assert read(tmp_path / "a.tar") == TEXTS


def test_tar_cut_at_every_block(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    whole = tar({f"{k}.txt": b"some text " * 100 for k in range(5)})
    used = len(whole.rstrip(b"\0"))
    for size in [*range(512, used + 512, 512), 700, used - 1]:
        path.write_bytes(whole[:size])
        assert "cut short" in refusal(path)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"1.jpg": b"x"}, "holds no .txt or .json member"),
        ({"1.json": b"{"}, "1.json: not JSON"),
        ({"1.json": b'{"body": "x"}'}, '1.json: no "text" key'),
        ({"1.txt": b"caf\xe9"}, "1.txt: not UTF-8 at byte 3"),
    ],
)
def test_bad_members(members: dict[str, bytes], message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar(members))
    assert message in refusal(path)


def test_what_was_read_grows_to_the_size_on_disk(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(TEXTS)))
    (tmp_path / "b.tar").write_bytes(tar({"1.txt": b"x", "2.txt": b"y"}))
    write_parquet(tmp_path / "c.parquet", ["one", "two"])
    (tmp_path / "d.txt").write_text("word \n\n" * 50_000)
    names = sorted(map(str, tmp_path.iterdir()))
    read = [document.read for document in documents(names)]
    assert read == sorted(read)
    total = sum(Path(name).stat().st_size for name in names)
    assert 0.9 * total < read[-1] <= total
