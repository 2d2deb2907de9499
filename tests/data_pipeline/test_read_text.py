"""What an input names, how text becomes documents, and what bad text is told."""

import json
import os
from pathlib import Path

import pytest

from data_pipeline.errors import DataError
from data_pipeline.read_text import DOCUMENT_CHARACTERS, HARD_LIMIT, Document, documents, find_files, fingerprint


def test_txt_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\n\r\n\r\ntwo\u2028 é".encode())
    assert list(documents([str(path)])) == [Document("one\r\n\r\n\r\ntwo\u2028 é", str(path))]


@pytest.mark.parametrize("paragraph", ["word " * 400 + "\n\n", "one line " * 50 + "\n", "nolineendatall é"])
def test_long_txt_is_cut_and_nothing_is_lost(tmp_path: Path, paragraph: str) -> None:
    path = tmp_path / "book.txt"
    text = paragraph * (700_000 // len(paragraph))
    path.write_text(text)
    parts = list(documents([str(path)]))
    assert "".join(part.text for part in parts) == text
    assert len(parts) > 1
    assert max(len(part.text) for part in parts) < 2 * HARD_LIMIT
    assert len({part.source for part in parts}) == len(parts)
    if paragraph.endswith("\n\n"):
        assert all(part.text.endswith("\n\n") for part in parts)
        assert all(len(part.text) < DOCUMENT_CHARACTERS + len(paragraph) for part in parts)


def test_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one\\ntwo", "id": 1}\n\n{"text": ""}\n')
    assert list(documents([str(path)])) == [Document("one\ntwo", f"{path}:1"), Document("", f"{path}:3")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"', "not JSON"),
        ('{"body": "a"}', 'no "text" key'),
        ('{"text": 3}', 'no "text" key'),
        ("[]", 'no "text" key'),
        ('{"text": "\\ud800"}', "lone surrogate at character 0"),
    ],
)
def test_bad_jsonl_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "fine"}}\n{line}\n')
    with pytest.raises(DataError, match=message) as error:
        list(documents([str(path)]))
    assert f"{path}, line 2" in str(error.value)


def test_lone_surrogate_is_replaced_on_request(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a\\ud800b"}\n')
    assert [document.text for document in documents([str(path)], "replace")] == ["a\ufffdb"]


@pytest.mark.parametrize("before", [0, 5, 100_000, (1 << 20) - 1, (1 << 20) + 7])
@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_not_utf8_names_file_and_byte(tmp_path: Path, before: int, suffix: str) -> None:
    path = tmp_path / f"latin{suffix}"
    good = (b"{}\n" * before)[:before] if suffix == ".txt" else b" " * before
    path.write_bytes(good + b"caf\xe9 and more")
    with pytest.raises(DataError) as error:
        list(documents([str(path)]))
    assert str(error.value).startswith(f"{path}: not UTF-8 at byte {before + 3} ")
    assert "--errors replace" in str(error.value)


def test_not_utf8_across_a_block_border_and_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "cut.txt"
    path.write_bytes(b"a" * ((1 << 20) - 1) + b"\xe2\x41")
    with pytest.raises(DataError, match=f"not UTF-8 at byte {(1 << 20) - 1} "):
        list(documents([str(path)]))
    path.write_bytes(b"abc\xe2\x96")
    with pytest.raises(DataError, match="not UTF-8 at byte 3 "):
        list(documents([str(path)]))
    assert [document.text for document in documents([str(path)], "replace")] == ["abc\ufffd"]


def test_globs_are_sorted_and_files_read_once(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "deep/er/c.txt", "deep/d.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    found = find_files([f"{tmp_path}/b.txt", f"{tmp_path}/**/*.txt", "python-docs"])
    assert found == [f"{tmp_path}/b.txt", f"{tmp_path}/a.txt", f"{tmp_path}/deep/er/c.txt", "python-docs"]


def test_a_name_with_brackets_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a[1].txt"
    path.write_text("x")
    assert find_files([str(path)]) == [str(path)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.txt", "no such file"),
        ("*.txt", "no file matches this glob"),
        ("folder", "is a folder"),
        ("x.pdf", "cannot read this format"),
    ],
)
def test_bad_input_name(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "x.pdf").write_text("")
    with pytest.raises(DataError, match=message) as error:
        list(documents([f"{tmp_path}/{name}"]))
    assert f"{tmp_path}/{name}" in str(error.value)


def test_no_input() -> None:
    with pytest.raises(DataError, match="no input given"):
        list(documents([]))


def test_fingerprint_follows_the_files(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x")
    first = fingerprint([str(path), "python-docs"])
    assert json.loads(json.dumps(first)) == fingerprint([str(path), "python-docs"])
    os.utime(path, ns=(1, 1))
    assert fingerprint([str(path), "python-docs"]) != first


def test_python_docs_hold_prose_in_a_fixed_order() -> None:
    stream = documents(["python-docs"])
    first = [next(stream) for _ in range(90)]
    sources = [document.source for document in first]
    topics = [source for source in sources if source.startswith("python-docs:topics/")]
    assert len(topics) > 50
    assert topics == sorted(topics)
    modules = [source for source in sources if source.endswith(".py")]
    assert modules == sorted(modules)
    assert modules
    assert all(len(document.text) >= 200 for document in first if document.source.endswith(".py"))
