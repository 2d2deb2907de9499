"""Documents out of parquet files and of webdataset tars of text."""

import json
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, cast

from data_pipeline.document import Document, ErrorMode, decoded, text_of_record
from data_pipeline.errors import DataError
from data_pipeline.open_input import open_input

PARQUET_ROWS = 256  # at a time: bounds memory together with the file's own row groups
END_OF_TAR = bytes(1024)


def read_parquet(path: Path, text_key: str, base: int) -> Iterator[Document]:
    """One document a row, the strings of the column `text_key`; a null is a document without text.

    `base`: bytes of the inputs before this file. Raises `DataError` for a file that is no parquet and for a column that
    is missing or holds no strings.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            _check_column(path, file.schema_arrow, text_key)
            row, size, rows = 0, path.stat().st_size, max(file.metadata.num_rows, 1)
            for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=[text_key]):
                for text in batch.column(0).to_pylist():
                    row += 1
                    yield Document(text or "", f"{path}:{row}", base + size * row // rows)
    except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as parquet ({error}); restore the file") from None


def _check_column(path: Path, schema: Any, text_key: str) -> None:
    from pyarrow import types

    if text_key not in schema.names:
        raise DataError(f"{path}: no column {text_key!r}; it has {', '.join(schema.names)}; name one with --text-key")
    kind = schema.field(text_key).type
    if not (types.is_string(kind) or types.is_large_string(kind)):
        raise DataError(f"{path}: column {text_key!r} holds {kind}, not strings; name another with --text-key")


def read_tar(path: Path, text_key: str, errors: ErrorMode, base: int) -> Iterator[Document]:
    """One document a webdataset sample, in order: the text of `KEY.txt`, else of `KEY.json` under `text_key`.

    Other members (images, metadata beside a text) are passed over; a tar without any text is refused, and so is one
    that ends too early.
    """
    found = False
    try:
        with open_input(path) as (stream, file):
            tail = _Tail(stream)
            with tarfile.open(fileobj=cast(BinaryIO, tail), mode="r|") as tar:
                for key, members in groupby(_text_members(tar), key=lambda member: member[0]):
                    found = True
                    fields = {field: content for _, field, content in members}
                    text = _sample_text(fields, f"{path}:{key}", text_key, errors)
                    yield Document(text, f"{path}:{key}", base + file.tell())
            tail.drain()
    except tarfile.TarError as error:
        raise DataError(f"{path}: damaged or cut short ({error}); restore the file") from None
    if not tail.ends_with(END_OF_TAR):
        raise DataError(f"{path}: cut short: the end of the archive is missing; restore the file")
    if not found:
        raise DataError(f"{path}: holds no .txt or .json member; name a tar of text")


def _text_members(tar: tarfile.TarFile) -> Iterator[tuple[str, str, bytes]]:
    """Key, field (`txt` or `json`) and content of each member that may be a text, named as webdataset does."""
    for member in tar:
        folder, _, name = member.name.rpartition("/")
        key, _, field = name.partition(".")
        if member.isfile() and field in ("txt", "json"):
            content = tar.extractfile(member)
            assert content is not None
            yield f"{folder}/{key}".removeprefix("/"), field, content.read()
        tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue] # else every header stays in memory


def _sample_text(fields: dict[str, bytes], where: str, text_key: str, errors: ErrorMode) -> str:
    if "txt" in fields:
        return decoded(fields["txt"], f"{where}.txt", errors)
    where = f"{where}.json"
    try:
        record = json.loads(decoded(fields["json"], where, errors))
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error.msg} at column {error.colno})") from None
    return text_of_record(record, text_key, where, errors)


class _Tail:
    """A stream that remembers its last bytes: `tarfile` takes a cut at a header for the archive's end."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._last = b""

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._last = (self._last + data)[-len(END_OF_TAR) :] if data else self._last
        return data

    def drain(self) -> None:
        while self.read(1 << 16):
            pass

    def ends_with(self, end: bytes) -> bool:
        return self._last == end
