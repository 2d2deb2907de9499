"""Where a process stands in its work, and from where all stand, which one keeps the others waiting."""

import sys
import threading
from collections.abc import Collection
from dataclasses import dataclass, field, replace

ENGINES = ("torch.distributed", "megatron", "deepspeed")
OURS = ("armd_dist", "data_pipeline")


@dataclass(frozen=True)
class Place:
    """phases: how many this process has entered; beats: signs of progress; step: counted from 1, 0 before the first."""

    phases: int = 0
    beats: int = 0
    step: int = 0
    phase: str = "starting"

    def __str__(self) -> str:
        return f"{f'in step {self.step}' if self.step else 'before the first step'}, {self.phase}"


_place = Place()


def enter(phase: str, step: int | None = None) -> None:
    """Says what this process does from now on. All processes enter the same phases: the one with fewest is behind."""
    global _place
    _place = Place(_place.phases + 1, _place.beats + 1, _place.step if step is None else step, phase)


def beat() -> None:
    """Says that a long phase goes on. Processes need not do this equally often."""
    global _place
    _place = replace(_place, beats=_place.beats + 1)


def here() -> Place:
    return _place


def main_thread() -> tuple[str, bool]:
    """The innermost of our functions in which the main thread is; whether it waits there for other processes."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    waits = frame is not None and frame.f_globals.get("__name__", "").startswith(ENGINES)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(OURS):
            return f"{module}.{frame.f_code.co_name} (line {frame.f_lineno})", waits
        frame = frame.f_back
    return "", waits


@dataclass
class Peer:
    """What is known of one process. heard, moved: when it last said anything, and when its place last changed."""

    rank: int
    heard: float
    moved: float
    name: str = ""
    place: Place = field(default_factory=Place)
    at: str = ""
    waits: bool = False
    left: bool = False

    def note(self, now: float, place: Place, at: str, waits: bool) -> None:
        if place != self.place:
            self.moved = now
        self.heard, self.place, self.at, self.waits = now, place, at, waits

    def forgive(self, seconds: float, now: float) -> None:
        """Does not count the last `seconds`, in which nobody looked."""
        self.heard, self.moved = min(now, self.heard + seconds), min(now, self.moved + seconds)

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.name})" if self.name else f"rank {self.rank}"


def quiet_s(timeout_s: float) -> float:
    """One that has said nothing for so many seconds is not at work, whatever its place."""
    return min(5.0, timeout_s / 2)


def silent(peers: Collection[Peer], now: float, timeout_s: float) -> str | None:
    """Who has said nothing for longer than the time-out."""
    found = [peer for peer in peers if not peer.left and now - peer.heard > timeout_s]
    return _not_heard_of(found, now) if found else None


def stuck(peers: Collection[Peer], now: float, timeout_s: float) -> str | None:
    """Who has not come on for longer than the time-out; of many the one that keeps the others waiting."""
    working = [peer for peer in peers if not peer.left]
    if all(now - peer.moved <= timeout_s for peer in working):
        return None
    if quiet := [peer for peer in working if now - peer.heard > quiet_s(timeout_s)]:
        return _not_heard_of(quiet, now)
    furthest_back = min(peer.place.phases for peer in working)
    behind = [peer for peer in working if peer.place.phases == furthest_back]
    # Where all are in the same phase, the one that is not in a collective is the one that the others wait for.
    blamed = [peer for peer in behind if not peer.waits] or behind
    if any(now - peer.moved <= timeout_s for peer in blamed):
        return None  # slow, but at work
    first = blamed[0]
    what = f"for {now - first.moved:.0f} s {first.place}" + (f", in {first.at}" if first.at else "")
    if len(blamed) == len(working) > 1:
        return f"no process comes on: {first} has hung {what}, and the others too"
    return f"{first}{_more(blamed)} hangs, {what}"


def _not_heard_of(peers: list[Peer], now: float) -> str:
    first = peers[0]
    return (
        f"no word from {first}{_more(peers)} for {now - first.heard:.0f} s, last {first.place}: "
        "it is stopped, or its machine is gone"
    )


def _more(peers: list[Peer]) -> str:
    return f" and {len(peers) - 1} more" if len(peers) > 1 else ""
