"""Open an input file, compressed or not, and say in the user's words what is wrong with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from data_pipeline.errors import DataError

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


def plain_name(name: str) -> str:
    """A file name without the suffix of its compression: `pages.jsonl.gz` is read as `pages.jsonl`."""
    return str(Path(name).with_suffix("")) if Path(name).suffix in COMPRESSIONS else name


@contextmanager
def open_input(path: Path) -> Iterator[tuple[Any, BinaryIO]]:
    """The file's bytes, decompressed by its suffix, and the file on disk, whose `tell` says how far reading is.

    Raises `DataError` when it cannot be opened, and for a compressed file that is cut short or damaged: at the byte
    where that shows, for which the caller's reading must stand inside the `with`.
    """
    compression = COMPRESSIONS.get(path.suffix)
    try:
        with path.open("rb") as file:
            if compression is None:
                yield file, file
            else:
                import pyarrow  # reads both, several members too, and unlike zstandard's reader notices a cut

                yield pyarrow.CompressedInputStream(file, compression), file
    except OSError as error:
        if error.errno is None:  # of the decompressor, not of the system
            raise DataError(f"{path}: damaged or cut short ({error}); restore the file") from None
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
