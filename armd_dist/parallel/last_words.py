"""What a process that the watch ends leaves behind: after a hang the stacks of its threads, and the reason."""

import faulthandler
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from armd_dist.errors import tell_launcher

# A file system that hangs, a frequent reason to end, must not hold up the end.
PATIENCE_S = 5.0


def show_stacks(title: str, file: Path | None) -> None:
    """Writes to stderr, and to the end of `file`, where each thread is, innermost call first, also one in C code."""

    def show() -> None:
        _write_stacks(2, title)
        if file is not None:
            with suppress(OSError):  # the log has them
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("ab") as stream:
                    _write_stacks(stream.fileno(), title)

    _within_patience(show)


def say_error(text: str) -> None:
    """Says in one line, to stderr and to the launcher, why this process ends."""

    def say() -> None:
        cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar hides it
        os.write(2, f"{cursor}error: {text}\n".encode())  # sys.stderr may be locked by a thread that hangs
        with suppress(OSError):
            tell_launcher(text)

    _within_patience(say)


def _write_stacks(descriptor: int, title: str) -> None:
    threads = ", ".join(f"{thread.name} 0x{thread.ident or 0:016x}" for thread in threading.enumerate())
    when = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
    os.write(descriptor, f"{when} stacks of {title}\nthreads: {threads}\n".encode())
    faulthandler.dump_traceback(descriptor)
    os.write(descriptor, b"\n")


def _within_patience(work: Callable[[], None]) -> None:
    """Does it, but goes on after PATIENCE_S at the latest."""
    thread = threading.Thread(target=work, name="last words", daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
