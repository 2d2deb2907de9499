"""A signal asks training to stop: it is noted, agreed on at the end of a step, and answered with a checkpoint."""

import signal
from types import FrameType, TracebackType
from typing import Self

import torch
import torch.distributed as dist

# What Slurm sends before it preempts a job or its time is up, what torchrun and `kill` send, and Ctrl-C.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)


class StopSignals:
    """Notes signals while its block runs, and does nothing else about them: a handler may run anywhere in a step.

    More signals change nothing, whatever is going on; only one process alone can be interrupted by a second Ctrl-C.
    """

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self.received = 0

    def __enter__(self) -> Self:
        self.before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    @property
    def would_end(self) -> bool:
        """Whether SIGTERM would end the process outside of the block; a cluster's launcher listens to it itself."""
        return self.before[signal.SIGTERM] is signal.SIG_DFL

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self.before.items():
            # One that is asked again on its way out, by a launcher that sees others gone, still ends with its own code.
            stays = self.received and handler is signal.SIG_DFL
            signal.signal(number, signal.SIG_IGN if stays else handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT and self.world_size == 1:
            raise KeyboardInterrupt
        self.received = self.received or number


def agree(received: int, written: bool) -> tuple[int, bool]:
    """(a signal that any process received, or 0; whether the write of a checkpoint has ended on all). Collective."""
    told = torch.tensor([received, -int(written)])
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return int(told[0]), bool(told[1] == -1)
