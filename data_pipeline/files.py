"""Checksums, and writes that are seen whole or not at all."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes; `OSError` when it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`; whatever crashes, a reader finds the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk names no file
    finally:
        with suppress(OSError):  # of the disk that failed already
            temporary.unlink()


def flush_to_disk(path: Path) -> None:
    """Return once a file's bytes lie on the disk itself, so that they outlive the machine's crash."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
