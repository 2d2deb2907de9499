"""Files at URLs, through fsspec: read whole, checked as they come, and tried again where that may help."""

import hashlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec.registry import known_implementations

from data_pipeline.errors import DataError

TRIES = 6
FIRST_PAUSE_S = 0.5  # doubled after each try, times a random half to three halves: machines must not come back at once
SILENCE_S = 60.0  # a server that sends nothing for so long is taken for gone
BLOCK = 1 << 20
HTTP = ("http", "https")
MAY_PASS = (408, 425, 429)  # of the 4xx answers those that say: later

# Called again and again while something is awaited; may raise to give up.
Tick = Callable[[], None]


@dataclass(frozen=True)
class RemoteFile:
    """`bytes`, `sha256` (hexadecimal): as the manifest says, None where it does not. `note`: what to tell the user."""

    url: str
    bytes: int | None = None
    sha256: str | None = None
    note: str = ""


class Stopped(Exception):
    """Raised by a tick: whoever asked has no use for the file any more."""


class _Damaged(Exception):
    """What came is not the file."""


def is_remote(path: Path | str) -> bool:
    """Whether a dataset's path is a URL."""
    return "://" in str(path)


def nothing() -> None:
    """The tick of those who need none."""


def download(file: RemoteFile, target: BinaryIO, tick: Tick = nothing) -> None:
    """Write a remote file to `target`, from its start on.

    Raises `DataError` naming the URL and what came back: at once where the file is missing or forbidden, after `TRIES`
    tries for whatever may pass (5xx, a connection that breaks, half a file, a wrong checksum).
    """
    for number in range(1, TRIES + 1):
        try:
            _once(file, target, tick)
            return
        except (DataError, Stopped):
            raise
        except Exception as error:  # each protocol's package has its own
            what, remedy, final = _told(file.url, error)
            if final or number == TRIES:
                times = "" if final else f", {TRIES} times"
                raise DataError(f"{file.url}: {what}{times}; {remedy}") from None
        _pause(FIRST_PAUSE_S * 2 ** (number - 1) * random.uniform(0.5, 1.5), tick)


def _once(file: RemoteFile, target: BinaryIO, tick: Tick) -> None:
    digest, size = hashlib.sha256(), 0
    whole = "" if file.bytes is None else f" of {file.bytes:,}"
    target.seek(0)
    with _open(file.url) as stream:
        while block := _next(stream, f"{size:,}{whole} bytes came"):
            size += len(block)
            if file.bytes is not None and size > file.bytes:
                raise _Damaged(f"more than the {file.bytes:,} bytes came that the manifest says")
            digest.update(block)
            _write(target, block)
            tick()
    if file.bytes is not None and size != file.bytes:
        raise _Damaged(f"{size:,}{whole} bytes came")
    if file.sha256 is not None and digest.hexdigest() != file.sha256:
        raise _Damaged(f"came with checksum {digest.hexdigest()[:12]} instead of {file.sha256[:12]}")
    target.truncate(size)


def _next(stream: Any, so_far: str) -> bytes:
    try:
        return stream.read(BLOCK)
    except Exception as error:
        raise _Damaged(f"{so_far} and the connection broke ({type(error).__name__})") from None


def _write(target: BinaryIO, block: bytes) -> None:
    try:
        target.write(block)
    except OSError as error:
        raise cannot_write(getattr(target, "name", "memory"), error) from None


def cannot_write(path: Path | str, error: OSError) -> DataError:
    """The error of a disk that takes no more."""
    remedy = "lower data.cache_gb, or set data.cache_dir to a disk with more room"
    return DataError(f"{path}: cannot be written ({error.strerror}); {remedy}")


def _open(url: str) -> Any:
    protocol = url.partition("://")[0]
    options: dict[str, Any] = {}
    try:
        if protocol in HTTP:
            import aiohttp

            # By default a whole download has five minutes; ours may last as long as bytes come.
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_S, sock_read=SILENCE_S)
            options = {"client_kwargs": {"timeout": timeout, "trust_env": True}}
        system = fsspec.filesystem(protocol, **options)
    except ImportError as error:
        package = known_implementations.get(protocol, {}).get("class", "fsspec").partition(".")[0]
        extra = "http" if protocol in HTTP else protocol
        package = f"'fsspec[{extra}]'" if package == "fsspec" else package
        raise DataError(f"{url}: a Python package is missing ({error}); pip install {package}") from None
    except ValueError:
        remedy = "use https://, s3:// or another that it knows, or the path of a folder"
        raise DataError(f"{url}: fsspec does not know {protocol}://; {remedy}") from None
    # One request that streams: neither a question for the size before it, nor a request for each block.
    return system.open(url, "rb", **({"block_size": 0, "size": -1} if protocol in HTTP else {}))


def _told(url: str, error: Exception) -> tuple[str, str, bool]:
    """(what came back, what to do, whether trying again is of no use) of a failed try."""
    status = getattr(error, "status", None)
    if isinstance(error, _Damaged):
        return str(error), "the copy there is damaged or the connection cut; try again, or upload the file again", False
    if isinstance(error, FileNotFoundError):
        is_http = url.startswith(HTTP)
        return (
            f"is not there{' (404)' * is_http}",
            "name the folder of one dataset, such as .../train, or upload all of it",
            True,
        )
    if isinstance(error, PermissionError) or status in (401, 403):
        return f"may not be read ({status or error})", "check the credentials, and the permissions there", True
    if isinstance(status, int):
        final = 400 <= status < 500 and status not in MAY_PASS
        answer = f"the server answered {status} {getattr(error, 'message', '')}".rstrip()
        return answer, "correct the URL" if final else "try again later: the same command goes on", final
    reason = f"{type(error).__name__}: {error}".rstrip(": ")
    return f"cannot be reached ({reason})", "check the address, the network and the credentials", False


def _pause(seconds: float, tick: Tick) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        tick()
        time.sleep(min(left, 0.1))
