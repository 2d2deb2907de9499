"""Every process of a job is watched: where one dies or hangs, the others say which, and in which step, and end.

Rank 0 holds a connection to every other process, over which each says again and again where it stands.
- One that dies is missed at once: its connection closes.
- One that is stopped, or whose machine is gone, is missed after the time-out: it says nothing.
- One that hangs is missed after the time-out: it stands still furthest back, and the others wait for it.
- One that fails says so before it goes.
A thread of its own does this, and ends the process itself: the main thread may be in a collective for ever.
"""

import os
import secrets
import selectors
import signal
import socket
import threading
import time
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import torch.distributed as dist

from armd_dist.parallel.connection import Connection, reach
from armd_dist.parallel.heart import Heart
from armd_dist.parallel.last_words import say_error, show_stacks
from armd_dist.parallel.progress import Peer, Place, here, main_thread, quiet_s, silent, stuck

# How a process ends that lost another: not 1 (an error of its own) and not 2 (the user's).
EXIT_CODE = 3
# What the others get to end by themselves once one has failed: most often all meet the same error. And what all get to
# show their stacks after a hang.
GRACE_S = 2.0
# What a process asked to end gets to hear why: torchrun asks all others as soon as one has died.
TERMINATION_S = 3.0
# Between a last word and the end: a connection that closes on words unread takes back what it has just sent.
HEARD_S = 0.5


class Watch:
    """Watches the processes of a job, this one too, while its block runs; the main one writes the run's heartbeat.

    ends_early: SIGTERM before the first step ends the process; from then on the loop answers it. stopped_by: to be set
    by a loop that a signal, of this name, ends after a save.
    """

    def __init__(self, rank: int, world_size: int, timeout_minutes: float, ends_early: bool = False) -> None:
        self.rank, self.world_size, self.timeout_s = rank, world_size, 60 * timeout_minutes
        self.ends_early = ends_early
        now = time.monotonic()
        # Rank 0 looks after all, the others after it.
        seen = range(world_size) if rank == 0 else (0,)
        self.peers = {number: Peer(number, now, now) for number in seen}
        self.selector = selectors.DefaultSelector()
        self.connections: list[Connection] = []
        self.waker, self.wake = socket.socketpair()
        # Rank 0 reads at most some 250 lines a second.
        self.pulse_s = min(1.0, max(0.1, world_size / 250))
        self.beaten = now
        self.goodbye: str | None = None
        self.verdict: tuple[str, float] | None = None
        self.run_dir: Path | None = None
        self.heart: Heart | None = None
        self.stopped_by: str | None = None
        self.terminated: float | None = None
        self.launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self.thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        for end in (self.waker, self.wake):
            end.setblocking(False)
        self.selector.register(self.wake, selectors.EVENT_READ, self.wake)
        if self.world_size > 1:
            self._meet()
        if self.ends_early:
            # The number goes to the thread at once; the main thread, which may be in a collective, is not asked.
            signal.set_wakeup_fd(self.waker.fileno(), warn_on_full_buffer=False)
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if isinstance(error, RuntimeError) and self.world_size > 1:
            # Collectives fail so when another process dies or fails. If that is why, the thread ends this process now,
            # or once the grace is over, which may have begun a little later than this.
            time.sleep(2 * GRACE_S)
        self.goodbye = "" if error is None or kind is None else f"{kind.__name__}: {error}".strip().splitlines()[0]
        self.waker.send(b"\0")
        self.thread.join()
        if self.ends_early:
            signal.set_wakeup_fd(-1)

    def claimed(self, run_dir: Path, first_step: int, stop_at: int) -> None:
        """To be told once the run's folder is this job's, which does the steps from `first_step` to `stop_at`."""
        self.run_dir = run_dir
        if self.rank == 0:
            self.heart = Heart(run_dir, self.world_size, first_step, stop_at)

    def _meet(self) -> None:
        """Connects everyone to rank 0. Collective. Raises TrainingError where rank 0 cannot be reached."""
        self.key, listener = secrets.token_hex(8), None
        if self.rank == 0:
            listener = socket.create_server(("", 0), backlog=self.world_size)
            listener.setblocking(False)
            self.selector.register(listener, selectors.EVENT_READ, listener)
        where = [(socket.gethostname(), listener.getsockname()[1], self.key) if listener else None]
        dist.broadcast_object_list(where, src=0)
        assert where[0] is not None
        host, port, self.key = where[0]
        if listener is None:
            self._add(reach((os.environ["MASTER_ADDR"], host), port)).peer = self.peers[0]
            self.connections[0].send({"key": self.key, **self._pulse()})

    def _add(self, stream: socket.socket) -> Connection:
        connection = Connection(stream)
        self.connections.append(connection)
        self.selector.register(stream, selectors.EVENT_READ, connection)
        return connection

    def _run(self) -> None:
        pulse_at = time.monotonic()
        while self.goodbye is None:
            lost = []
            for key, _ in self.selector.select(max(0.0, pulse_at - time.monotonic())):
                if isinstance(key.data, Connection):
                    lost += self._read(key.data)
                elif key.data is self.wake:
                    if signal.SIGTERM in self.wake.recv(64) and self.terminated is None:
                        self.terminated = time.monotonic()
                else:
                    with suppress(OSError):  # it went again, or too many files are open
                        self._add(key.data.accept()[0])
            now = time.monotonic()
            for peer in lost:
                self._decide(f"{peer} died; last word {now - peer.heard:.1f} s before, {peer.place}")
            if now >= pulse_at:
                self._beat(now)
                pulse_at = now + self.pulse_s
            self._act(now)
        self._tell(self._pulse() | {"left": self.goodbye})
        if self.heart is not None and self.goodbye:
            self.heart.end("failed", self.goodbye)
        elif self.heart is not None:
            self.heart.end("stopped" if self.stopped_by else "finished", self.stopped_by)

    def _read(self, connection: Connection) -> list[Peer]:
        """Takes note of what came; returns the process, where it went without a word."""
        messages, is_open = connection.receive()
        for message in messages:
            if message.get("key") == self.key:
                connection.peer = self.peers[message["rank"]]
            if connection.peer is not None:
                self._note(connection.peer, message)
        if is_open:
            return []
        self.selector.unregister(connection.stream)
        self.connections.remove(connection)
        gone, connection.peer = connection.peer, None
        if gone is None or gone.left:
            return []
        gone.left = True
        return [gone]

    def _note(self, peer: Peer, message: dict[str, Any]) -> None:
        if "verdict" in message:
            self._decide(message["verdict"], message["grace"], message["stacks"])
            return
        peer.name = message["name"]
        peer.note(time.monotonic(), Place(*message["place"]), message["at"], message["waits"])
        if "left" in message:
            peer.left = True
            if message["left"]:
                self._decide(f"{peer} failed {peer.place}: {message['left']}", GRACE_S)

    def _pulse(self) -> dict[str, Any]:
        at, waits = main_thread()
        return {"rank": self.rank, "name": _own_name(), "place": astuple(here()), "at": at, "waits": waits}

    def _beat(self, now: float) -> None:
        pulse = self._pulse()
        self._tell(pulse)
        if self.rank == 0:
            self._note(self.peers[0], pulse)
        away, self.beaten = now - self.beaten, now
        if away > quiet_s(self.timeout_s):
            # This process itself was stopped: what the others said in the meantime is still to be read.
            for peer in self.peers.values():
                peer.forgive(away, now)
            return
        wrong = silent(self.peers.values(), now, self.timeout_s)
        if self.rank == 0 and wrong is None:
            wrong = stuck(self.peers.values(), now, self.timeout_s)
        if wrong is not None:
            # Nobody ends before all have shown their stacks: collectives fail as soon as one has.
            self._decide(wrong, GRACE_S, stacks=True)
        elif self.launcher not in (None, os.getppid()):
            self._decide(f"the torchrun of rank {self.rank} died {here()}")

    def _decide(self, text: str, grace: float = 0.0, stacks: bool = False) -> None:
        """What has happened, and that all end for it; stacks: each shows at once where its threads are."""
        if self.verdict is None:
            self.verdict = text, time.monotonic() + grace
            self._tell({"rank": self.rank, "verdict": text, "grace": grace, "stacks": stacks})
            if stacks:
                file = self.run_dir and self.run_dir / "stacks" / f"rank-{self.rank}.txt"
                show_stacks(f"rank {self.rank} ({_own_name()}), {here()}", file)

    def _tell(self, message: dict[str, Any]) -> None:
        for connection in self.connections:
            connection.send(message)

    def _act(self, now: float) -> None:
        if self.verdict is not None and now >= self.verdict[1]:
            self._end(f"{self.verdict[0]}; rank {self.rank} ends, {here()}")
        if self.terminated is not None and now >= self.terminated + TERMINATION_S and here().step == 0:
            self._tell(self._pulse() | {"left": "was asked to end (SIGTERM)"})
            if self.heart is not None:
                self.heart.end("failed", "was asked to end (SIGTERM)")
            time.sleep(HEARD_S)
            os._exit(128 + signal.SIGTERM)

    def _end(self, text: str) -> NoReturn:
        """Ends this process, whatever its main thread is stuck in."""
        assert self.verdict is not None
        if self.heart is not None:
            self.heart.end("failed", self.verdict[0])  # first: it may have a warning, and the error is the last line
        say_error(text)
        os._exit(EXIT_CODE)


def _own_name() -> str:
    return f"{socket.gethostname()}, process {os.getpid()}"
