"""Documents out of text files: what an input names, and how each format is read."""

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Literal

from data_pipeline.errors import DataError
from data_pipeline.python_docs import PYTHON_DOCS, docstring_documents, python_docs_version

ErrorMode = Literal["strict", "replace"]

# A .txt file longer than this many characters becomes several documents, so that a book can be tokenised in parallel
# and split into training and held-out text. The cut waits for a blank line, and for any line end past the hard limit.
DOCUMENT_CHARACTERS = 64 * 1024
HARD_LIMIT = 4 * DOCUMENT_CHARACTERS

SUFFIXES = (".txt", ".jsonl")


@dataclass(frozen=True)
class Document:
    """One text and where it came from (`book.txt`, `pages.jsonl:17`, `python-docs:argparse`)."""

    text: str
    source: str


def documents(inputs: list[str], errors: ErrorMode = "strict") -> Iterator[Document]:
    """Read every document of `inputs`, in the order of `find_files`.

    `.txt`: one document a file; a file of more than 64 Ki characters is cut at blank lines into documents of about
    that size. `.jsonl`: one object a line with a `text` key. `python-docs`: the prose of the Python installation.

    Text that is not UTF-8 raises `DataError` with the file and byte offset, or is read with replacement characters
    under `errors="replace"`. A missing file, a glob without match and a bad line raise `DataError` too.
    """
    for name in find_files(inputs):
        if name == PYTHON_DOCS:
            yield from (Document(text, source) for text, source in docstring_documents())
        elif name.endswith(".jsonl"):
            yield from _read_jsonl(Path(name), errors)
        else:
            yield from _read_txt(Path(name), errors)


def find_files(inputs: list[str]) -> list[str]:
    """Resolve paths and globs (`**` too) to file names: each once, inputs in the given order, a glob's files sorted.

    The literal `python-docs` stays as it is. Raises `DataError` for a missing file, a glob without match, a folder
    and a suffix that is neither `.txt` nor `.jsonl`.
    """
    found: dict[str, None] = {}
    for item in inputs:
        found.update(dict.fromkeys([PYTHON_DOCS] if item == PYTHON_DOCS else _match(item)))
    if not found:
        raise DataError("no input given: name a .txt or .jsonl file, a glob, or python-docs")
    return list(found)


def fingerprint(inputs: list[str]) -> list[list[str | int]]:
    """Identity of the inputs without reading them: `[absolute path, bytes, modification time in ns]` of each file."""
    marks: list[list[str | int]] = []
    for name in find_files(inputs):
        if name == PYTHON_DOCS:
            marks.append([PYTHON_DOCS, python_docs_version()])
        else:
            stat = Path(name).stat()
            marks.append([str(Path(name).absolute()), stat.st_size, stat.st_mtime_ns])
    return marks


def _match(item: str) -> list[str]:
    if Path(item).exists():  # a name that happens to hold [ or ? is still a file
        names = [item]
    elif has_magic(item):
        names = sorted(name for name in glob(item, recursive=True) if not Path(name).is_dir())
        if not names:
            raise DataError(f"{item}: no file matches this glob; check the path, and quote the glob in a shell")
    else:
        raise DataError(f"{item}: no such file; check the path")
    for name in names:
        if Path(name).is_dir():
            raise DataError(f"{name}: is a folder; name its files, for example '{name}/**/*.txt'")
        if not name.endswith(SUFFIXES):
            raise DataError(f"{name}: cannot read this format; inputs are .txt and .jsonl files")
    return names


def _lines(path: Path, errors: ErrorMode) -> Iterator[str]:
    """Lines with their ends, at most `HARD_LIMIT` characters each for .txt, so that memory stays bounded."""
    limit = HARD_LIMIT if path.suffix == ".txt" else -1
    try:
        # utf-8-sig drops a byte order mark; newline="\n" leaves \r\n alone, so that text round trips.
        with path.open(encoding="utf-8-sig", errors=errors, newline="\n") as file:
            while line := file.readline(limit):
                yield line
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 at byte {_first_bad_byte(path)} ({error.reason}); "
            "convert the file, or pass --errors replace to read it with replacement characters"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None


def _first_bad_byte(path: Path) -> int:
    """Offset of the first byte that is not UTF-8, found by a second read: a text file reports buffer offsets only."""
    decoder, offset = codecs.getincrementaldecoder("utf-8")(), 0
    with path.open("rb") as file:
        while True:
            block = file.read(1 << 20)
            held_back = len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                return offset - held_back + error.start
            offset += len(block)
            if not block:
                return offset


def _read_txt(path: Path, errors: ErrorMode) -> Iterator[Document]:
    part: list[str] = []
    size = number = 0
    for line in _lines(path, errors):
        part.append(line)
        size += len(line)
        if size >= HARD_LIMIT or (size >= DOCUMENT_CHARACTERS and not line.strip()):
            yield Document("".join(part), f"{path}#{number}")
            part, size, number = [], 0, number + 1
    if part or number == 0:
        yield Document("".join(part), f"{path}#{number}" if number else str(path))


def _read_jsonl(path: Path, errors: ErrorMode) -> Iterator[Document]:
    for number, line in enumerate(_lines(path, errors), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: not JSON ({error.msg} at column {error.colno}); one object a line") from None
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise DataError(f'{where}: no "text" key with a string; each line is an object like {{"text": "..."}}')
        yield Document(_without_surrogates(record["text"], where, errors), f"{path}:{number}")


def _without_surrogates(text: str, where: str, errors: ErrorMode) -> str:
    r"""JSON can spell half of a surrogate pair (`\ud800`), which is no character and has no UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        if errors == "strict":
            raise DataError(f"{where}: lone surrogate at character {error.start}; pass --errors replace") from None
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
