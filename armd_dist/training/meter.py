"""How far a long read has come: told by the main process, and to the watch by every process."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from armd_dist.parallel.progress import beat

LINE_EVERY_S = 15.0


class Meter:
    """Counts bytes. Where it `shows`: a bar on a terminal, elsewhere a line now and then, none for a short read."""

    def __init__(self, what: str, total: int, shows: bool) -> None:
        self.what, self.total, self.shows = what, total, shows
        self.done, self.began = 0, time.monotonic()
        self.told = self.began
        console = Console(stderr=True)
        self.draws = shows and console.is_terminal
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self.bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not self.draws)

    def __enter__(self) -> Self:
        self.bar.start()
        self.task = self.bar.add_task(self.what, total=self.total)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.bar.stop()

    def __call__(self, count: int) -> None:
        """So many bytes more. From any thread."""
        beat()
        self.bar.advance(self.task, count)
        self.done += count
        now = time.monotonic()
        if self.shows and not self.draws and now - self.told > LINE_EVERY_S:
            self.told = now
            speed = self.done / (now - self.began)
            text = f"{self.what}: {self.done / 1e9:,.1f} of {self.total / 1e9:,.1f} GB, {speed / 1e9:.2f} GB/s"
            print(text, file=sys.stderr, flush=True)
