"""Remote files on this machine's disk: one process fetches, all read, the least recently used make room."""

import fcntl
import io
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from data_pipeline.errors import DataError
from data_pipeline.remote import RemoteFile, Tick, cannot_write, download, nothing

GIGABYTE = 10**9
DEFAULT_GB = 100.0
POLL_S = 0.05
SAY_EVERY_S = 5.0
LOCK, PARTIAL, TAR = ".lock", ".partial", ".tar"
REMEDY = "set data.cache_dir to a folder of a local disk"


def default_folder() -> Path:
    """Where the user's caches lie."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "armd-dist" / "shards"


def gigabytes(size: float) -> str:
    """Bytes as a value for data.cache_gb that is not too small."""
    return f"{math.ceil(size / 10**6) / 1000:g}"


class Cache:
    """A folder of at most `limit` bytes that the processes of a machine share.

    flock holds it together, which the operating system gives free when a process dies:
    - A file is downloaded under a hidden name by whoever holds that locked, takes its whole size from the start, and is
      renamed once its checksum is right. What a killed process leaves is never seen as the file, and is removed.
    - Who reads a file holds it locked, shared. Only what nobody holds is removed, so that removing it frees its bytes.
    - Room is made by one process at a time, the one that holds `.lock`.
    A file's time of modification says when it was last used.

    Attributes: `folder`; `limit` (bytes); `readers` (processes of this machine that read at a time); `tick` (called
    while a reader waits and bytes come).
    """

    def __init__(
        self, folder: Path | str | None = None, gigabytes: float = DEFAULT_GB, readers: int = 1, tick: Tick = nothing
    ) -> None:
        self.folder = default_folder() if folder is None else Path(folder).expanduser()
        self.limit, self.readers, self.tick = round(gigabytes * GIGABYTE), readers, tick
        self._said = -SAY_EVERY_S

    def open(self, path: Path, source: RemoteFile) -> BinaryIO:
        """`path`, below this cache's folder, opened to read; as long as it is open nobody removes it.

        Where it is missing it is fetched, or awaited if another process fetches it. `DataError` when it cannot be had.
        """
        seen = None
        while True:
            found = self._open_or_fetch(path, source, self.tick)
            if found is not None:
                return found
            written = _written(_partial(path))
            if written != seen:
                self.tick()
            seen = written
            time.sleep(POLL_S)

    def fetch(self, path: Path, source: RemoteFile, tick: Tick) -> None:
        """Have `path` here, and lately used; nothing is awaited where another process fetches it."""
        found = self._open_or_fetch(path, source, tick)
        if found is not None:
            found.close()

    def _open_or_fetch(self, path: Path, source: RemoteFile, tick: Tick) -> BinaryIO | None:
        """None where another process has it in its hands."""
        while True:
            if (file := _locked(path, fcntl.LOCK_SH)) is not None:
                if source.bytes in (None, os.fstat(file.fileno()).st_size):
                    os.utime(file.fileno())
                    return file
                path.unlink(missing_ok=True)  # whoever cut it short, it was not us
                file.close()
            if path.exists():
                return None  # another is removing it
            self._make_folder(path.parent)
            partial = _partial(path)
            if (file := _locked(partial, fcntl.LOCK_EX, create=True)) is None:
                return None
            with file:
                try:
                    if path.exists():  # another was faster
                        partial.unlink()
                        continue
                    self._fill(file, path.parent, source, tick)
                except BaseException as error:
                    partial.unlink(missing_ok=True)
                    if isinstance(error, OSError):
                        raise cannot_write(partial, error) from None
                    raise
                partial.rename(path)

    def _fill(self, file: BinaryIO, folder: Path, source: RemoteFile, tick: Tick) -> None:
        if source.note:
            self._say(source.note)
        if source.bytes is None:  # a small file
            content = io.BytesIO()
            download(source, content, tick)
            self._reserve(file, len(content.getvalue()), folder, source.url, tick)
            file.write(content.getvalue())
        else:
            self._reserve(file, source.bytes, folder, source.url, tick)
            download(source, file, tick)
        file.flush()
        os.fsync(file.fileno())

    def _reserve(self, file: BinaryIO, size: int, folder: Path, url: str, tick: Tick) -> None:
        """Give `file` its whole size as soon as there is room: from then on others count it."""
        while True:
            with self._alone():
                missing, busy = self._make_room(size, folder)
                if missing <= 0:
                    os.ftruncate(file.fileno(), size)
                    return
            if not busy:
                raise DataError(
                    f"data.cache_gb={gigabytes(self.limit)}: no room in {self.folder} for {url}, of "
                    f"{size:,} bytes; use at least data.cache_gb={gigabytes(self.limit + missing)}"
                )
            self._say(f"waiting for room in {self.folder}: other processes use {self.limit - size + missing:,} bytes")
            tick()
            time.sleep(POLL_S)

    def _make_room(self, size: int, folder: Path) -> tuple[int, bool]:
        """(bytes that are missing still, whether somebody uses files that could give them) after what could be removed.

        The longest unused goes first. Small files of `folder` stay: without them its tars are of no use.
        """
        found = [(path, stat) for path in self.folder.glob("*/*") if (stat := _stat(path)) is not None and stat.st_size]
        missing, busy = sum(stat.st_size for _, stat in found) + size - self.limit, False
        for path, stat in sorted(found, key=lambda file: file[1].st_mtime_ns):
            if missing <= 0:
                break
            if path.parent == folder and path.suffix not in (TAR, PARTIAL):
                continue
            if (file := _locked(path, fcntl.LOCK_EX)) is None:
                busy = True
                continue
            path.unlink(missing_ok=True)
            file.close()
            missing -= stat.st_size
            with suppress(OSError):  # not empty yet
                path.parent.rmdir()
        return missing, busy

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / LOCK).open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _make_folder(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{folder}: cannot be made to keep remote data ({error.strerror}); {REMEDY}") from None

    def _say(self, text: str) -> None:
        if time.monotonic() - self._said >= SAY_EVERY_S:
            self._said = time.monotonic()
            print(text, file=sys.stderr, flush=True)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}{PARTIAL}")


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _written(path: Path) -> int | None:
    found = _stat(path)
    return None if found is None else found.st_mtime_ns


def _locked(path: Path, how: int, create: bool = False) -> BinaryIO | None:
    """`path` opened and locked; None where it is missing or others hold it."""
    try:
        number = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o644)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror}); {REMEDY}") from None
    file = os.fdopen(number, "r+b")
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
        if os.stat(path).st_ino == os.fstat(number).st_ino:  # not renamed or removed before we had the lock
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError as error:  # a file system without locks
        raise DataError(f"{path}: cannot be locked ({error.strerror}); {REMEDY}") from None
    file.close()
    return None
