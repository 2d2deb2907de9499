"""Documents out of text files: what an input names, and how each format is read."""

import codecs
import io
import json
from collections.abc import Iterable, Iterator
from glob import glob, has_magic
from pathlib import Path

from data_pipeline.document import TEXT_KEY, Document, ErrorMode, not_utf8, text_of_record
from data_pipeline.errors import DataError
from data_pipeline.open_input import open_input, plain_name
from data_pipeline.python_docs import PYTHON_DOCS, docstring_documents, python_docs_version
from data_pipeline.read_records import read_parquet, read_tar

# A .txt file longer than this many characters becomes several documents, so that a book can be tokenised in parallel
# and split into training and held-out text. The cut waits for a blank line, and for any line end past the hard limit.
DOCUMENT_CHARACTERS = 64 * 1024
HARD_LIMIT = 4 * DOCUMENT_CHARACTERS

# .txt, .jsonl and .tar may be compressed: FILE.gz, FILE.zst.
FORMATS = ".txt, .jsonl, .tar (each also .gz or .zst) and .parquet"


def documents(inputs: list[str], errors: ErrorMode = "strict", text_key: str = TEXT_KEY) -> Iterator[Document]:
    """Read every document of `inputs`, in the order of `find_files`.

    - `.txt`: one document a file; of more than 64 Ki characters cut at blank lines into documents of about that size.
    - `.jsonl`: one object a line, its text under `text_key`; `.parquet`: one row a document, the column `text_key`.
    - `.tar`: a webdataset tar of text, one `.txt` or `.json` member a document.
    - `python-docs`: the prose of the Python installation.

    Text that is not UTF-8 raises `DataError` with the file and byte offset, or is read with replacement characters
    under `errors="replace"`. A missing file, a glob without match, a bad record and a file that is cut short or
    damaged raise `DataError` too. Nothing but the document at hand (in parquet: its row group) is held in memory.
    """
    base = 0
    for name in find_files(inputs):
        if name == PYTHON_DOCS:
            yield from (Document(text, source, base) for text, source in docstring_documents())
            continue
        path = Path(name)
        yield from _read(path, errors, text_key, base)
        base += path.stat().st_size


def _read(path: Path, errors: ErrorMode, text_key: str, base: int) -> Iterator[Document]:
    match Path(plain_name(path.name)).suffix:
        case ".parquet":
            return read_parquet(path, text_key, base)
        case ".tar":
            return read_tar(path, text_key, errors, base)
        case ".jsonl":
            return _read_jsonl(path, errors, text_key, base)
        case _:
            return _read_txt(path, errors, base)


def find_files(inputs: list[str]) -> list[str]:
    """Resolve paths and globs (`**` too) to file names: each once, inputs in the given order, a glob's files sorted.

    The literal `python-docs` stays as it is. Raises `DataError` for a missing file, a glob without match, a folder
    and a suffix that names no format.
    """
    found: dict[str, None] = {}
    for item in inputs:
        found.update(dict.fromkeys([PYTHON_DOCS] if item == PYTHON_DOCS else _match(item)))
    if not found:
        raise DataError("no input given: name a file, a glob, or python-docs")
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


def part_of(files: list[str], part: tuple[int, int]) -> list[str]:
    """Every n-th file for `part` = (i, n), from the i-th on; i counts from 1. `DataError` where that leaves none."""
    number, parts = part
    if not 1 <= number <= parts:
        raise DataError(f"--part {number}/{parts}: parts are counted from 1 to their number, as in 1/{max(parts, 1)}")
    if parts > len(files):
        raise DataError(
            f"--part {number}/{parts}: the input is {len(files)} file(s), which are not cut; "
            f"use at most {len(files)} part(s), or split the files"
        )
    return files[number - 1 :: parts]


def size_of(files: Iterable[str]) -> int:
    """Bytes on disk of all files together."""
    return sum(Path(name).stat().st_size for name in files if name != PYTHON_DOCS)


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
        if not name.endswith(".parquet") and not plain_name(name).endswith((".txt", ".jsonl", ".tar")):
            raise DataError(f"{name}: cannot read this format; inputs are {FORMATS}")
    return names


def _lines(path: Path, errors: ErrorMode, limit: int, base: int) -> Iterator[tuple[str, int]]:
    """Lines with their ends, of at most `limit` characters (-1: any number), and the bytes read before each is done."""
    try:
        with open_input(path) as (stream, file):
            # utf-8-sig drops a byte order mark; newline="\n" leaves \r\n alone, so that text round trips.
            text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors=errors, newline="\n")
            while line := text.readline(limit):
                yield line, base + file.tell()
    except UnicodeDecodeError as error:
        raise not_utf8(str(path), _first_bad_byte(path), error.reason) from None


def _first_bad_byte(path: Path) -> int:
    """Offset of the first byte that is not UTF-8, found by a second read: a text file reports buffer offsets only."""
    decoder, offset = codecs.getincrementaldecoder("utf-8")(), 0
    with open_input(path) as (stream, _):
        while True:
            block = stream.read(1 << 20)
            held_back = len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                return offset - held_back + error.start
            offset += len(block)
            if not block:
                return offset


def _read_txt(path: Path, errors: ErrorMode, base: int) -> Iterator[Document]:
    part: list[str] = []
    size = number = 0
    read = base
    for line, read in _lines(path, errors, HARD_LIMIT, base):
        part.append(line)
        size += len(line)
        if size >= HARD_LIMIT or (size >= DOCUMENT_CHARACTERS and not line.strip()):
            yield Document("".join(part), f"{path}#{number}", read)
            part, size, number = [], 0, number + 1
    if part or number == 0:
        yield Document("".join(part), f"{path}#{number}" if number else str(path), read)


def _read_jsonl(path: Path, errors: ErrorMode, text_key: str, base: int) -> Iterator[Document]:
    for number, (line, read) in enumerate(_lines(path, errors, -1, base), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: not JSON ({error.msg} at column {error.colno}); one object a line") from None
        yield Document(text_of_record(record, text_key, where, errors), f"{path}:{number}", read)
