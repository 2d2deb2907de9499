"""A document: what every reader yields, and the checks that text of any format goes through."""

from dataclasses import dataclass, field
from typing import Any, Literal

from data_pipeline.errors import DataError

ErrorMode = Literal["strict", "replace"]
TEXT_KEY = "text"


@dataclass(frozen=True)
class Document:
    """One text and where it came from (`book.txt`, `pages.jsonl:17`, `python-docs:argparse`).

    `read`: bytes on disk that had been read when it was found, of all inputs together; tells how far a build is.
    """

    text: str
    source: str
    read: int = field(default=0, compare=False)


def text_of_record(record: Any, key: str, where: str, errors: ErrorMode) -> str:
    """The text of a JSON object; `DataError` naming `where` when it has none under `key`."""
    if not isinstance(record, dict) or not isinstance(record.get(key), str):
        keys = f"; it has {', '.join(map(repr, record))}" if isinstance(record, dict) and record else ""
        raise DataError(
            f'{where}: no "{key}" key with a string{keys}; each record is an object like {{"{key}": "..."}}, '
            "or name another key with --text-key"
        )
    return without_surrogates(record[key], where, errors)


def without_surrogates(text: str, where: str, errors: ErrorMode) -> str:
    r"""JSON can spell half of a surrogate pair (`\ud800`), which is no character and has no UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        if errors == "strict":
            raise DataError(f"{where}: lone surrogate at character {error.start}; pass --errors replace") from None
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def decoded(data: bytes, where: str, errors: ErrorMode) -> str:
    """UTF-8 bytes as text, without a byte order mark; `DataError` naming `where` and the first bad byte."""
    try:
        return data.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise not_utf8(where, error.start, error.reason) from None


def not_utf8(where: str, offset: int, reason: str) -> DataError:
    """The error for text that is not UTF-8 at byte `offset`."""
    return DataError(
        f"{where}: not UTF-8 at byte {offset} ({reason}); "
        "convert the file, or pass --errors replace to read it with replacement characters"
    )
