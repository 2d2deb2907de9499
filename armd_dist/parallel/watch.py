"""Every process of a job is watched: where one dies or hangs, the others say which, and in which step, and end.

Rank 0 holds a connection to every other process, over which each says again and again where it stands.
- One that dies is missed at once: its connection closes.
- One that is stopped, or whose machine is gone, is missed after the time-out: it says nothing.
- One that hangs is missed after the time-out: it stands still furthest back, and the others wait for it.
- One that fails says so before it goes.
A thread of its own does this, and ends the process itself: the main thread may be in a collective for ever.
"""

import json
import os
import secrets
import selectors
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import astuple
from types import TracebackType
from typing import Any, NoReturn, Self

import torch.distributed as dist

from armd_dist.errors import TrainingError, tell_launcher
from armd_dist.parallel.progress import Peer, Place, here, main_thread, quiet_s, silent, stuck

# How a process ends that lost another: not 1 (an error of its own) and not 2 (the user's).
EXIT_CODE = 3
# What the others get to end by themselves once one has failed: most often all meet the same error.
GRACE_S = 2.0
# What a process asked to end gets to hear why: torchrun asks all others as soon as one has died.
TERMINATION_S = 3.0
CONNECT_S = 30.0
BUFFER = 1 << 16


class _Connection:
    """Lines of JSON to and from another process."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream, self.unsent, self.received = stream, b"", b""
        self.peer: Peer | None = None
        stream.setblocking(False)

    def send(self, message: dict[str, Any]) -> None:
        """Never waits. What a process that does not read misses, it does not need: it will be missed itself."""
        if len(self.unsent) < BUFFER:
            self.unsent += json.dumps(message).encode() + b"\n"
        try:
            self.unsent = self.unsent[self.stream.send(self.unsent) :]
        except OSError:
            return

    def receive(self) -> tuple[list[dict[str, Any]], bool]:
        """(messages, whether the connection is open). One that speaks another language is as good as closed."""
        try:
            data = self.stream.recv(BUFFER)
            *lines, self.received = (self.received + data).split(b"\n")
            messages = [json.loads(line) for line in lines]
        except BlockingIOError:
            return [], True
        except (OSError, ValueError):
            return [], False
        return [message for message in messages if isinstance(message, dict)], bool(data)


class Watch:
    """Watches the other processes while its block runs. With one process it does nothing.

    ends_early: SIGTERM before the first step ends the process; from then on the loop answers it.
    """

    def __init__(self, rank: int, world_size: int, timeout_minutes: float, ends_early: bool = False) -> None:
        self.rank, self.world_size, self.timeout_s = rank, world_size, 60 * timeout_minutes
        self.ends_early = ends_early
        now = time.monotonic()
        # Rank 0 looks after all, the others after it.
        seen = range(world_size) if rank == 0 else (0,)
        self.peers = {number: Peer(number, now, now) for number in seen}
        self.selector = selectors.DefaultSelector()
        self.connections: list[_Connection] = []
        self.waker, self.wake = socket.socketpair()
        # Rank 0 reads at most some 250 lines a second.
        self.pulse_s = min(1.0, max(0.1, world_size / 250))
        self.beaten = now
        self.goodbye: str | None = None
        self.verdict: tuple[str, float] | None = None
        self.terminated: float | None = None
        self.launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self.thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        if self.world_size > 1:
            for end in (self.waker, self.wake):
                end.setblocking(False)
            self.selector.register(self.wake, selectors.EVENT_READ, self.wake)
            self._meet()
            if self.ends_early:
                # The number goes to the thread at once; the main thread, which may be in a collective, is not asked.
                signal.set_wakeup_fd(self.waker.fileno(), warn_on_full_buffer=False)
            self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.world_size == 1:
            return
        if isinstance(error, RuntimeError):
            # Collectives fail so when another process dies or fails. If that is why, the thread ends this process now,
            # or once the grace is over, which may have begun a little later than this.
            time.sleep(2 * GRACE_S)
        self.goodbye = "" if error is None or kind is None else f"{kind.__name__}: {error}".strip().splitlines()[0]
        self.waker.send(b"\0")
        self.thread.join()
        if self.ends_early:
            signal.set_wakeup_fd(-1)

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
            self._add(_reach((os.environ["MASTER_ADDR"], host), port)).peer = self.peers[0]
            self.connections[0].send({"key": self.key, **self._pulse()})

    def _add(self, stream: socket.socket) -> _Connection:
        connection = _Connection(stream)
        self.connections.append(connection)
        self.selector.register(stream, selectors.EVENT_READ, connection)
        return connection

    def _run(self) -> None:
        pulse_at = time.monotonic()
        while self.goodbye is None:
            lost = []
            for key, _ in self.selector.select(max(0.0, pulse_at - time.monotonic())):
                if isinstance(key.data, _Connection):
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

    def _read(self, connection: _Connection) -> list[Peer]:
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
            self._decide(message["verdict"], message["grace"])
            return
        peer.name = message["name"]
        peer.note(time.monotonic(), Place(*message["place"]), message["at"], message["waits"])
        if "left" in message:
            peer.left = True
            if message["left"]:
                self._decide(f"{peer} failed {peer.place}: {message['left']}", GRACE_S)

    def _pulse(self) -> dict[str, Any]:
        at, waits = main_thread()
        name = f"{socket.gethostname()}, process {os.getpid()}"
        return {"rank": self.rank, "name": name, "place": astuple(here()), "at": at, "waits": waits}

    def _beat(self, now: float) -> None:
        pulse = self._pulse()
        self._tell(pulse)
        if self.rank == 0:
            self._note(self.peers[0], pulse)
        stopped, self.beaten = now - self.beaten > quiet_s(self.timeout_s), now
        if stopped:
            return  # this process itself: what the others said in the meantime is still to be read
        wrong = silent(self.peers.values(), now, self.timeout_s)
        if self.rank == 0 and wrong is None:
            wrong = stuck(self.peers.values(), now, self.timeout_s)
        if wrong is None and self.launcher not in (None, os.getppid()):
            wrong = f"the torchrun of rank {self.rank} died {here()}"
        if wrong is not None:
            self._decide(wrong)

    def _decide(self, text: str, grace: float = 0.0) -> None:
        """What has happened, and that this process ends for it; the others hear of it."""
        if self.verdict is None:
            self.verdict = text, time.monotonic() + grace
            self._tell({"rank": self.rank, "verdict": text, "grace": grace})

    def _tell(self, message: dict[str, Any]) -> None:
        for connection in self.connections:
            connection.send(message)

    def _act(self, now: float) -> None:
        if self.verdict is not None and now >= self.verdict[1]:
            _end(f"{self.verdict[0]}; rank {self.rank} ends, {here()}")
        if self.terminated is not None and now >= self.terminated + TERMINATION_S and here().step == 0:
            self._tell(self._pulse() | {"left": "was asked to end (SIGTERM)"})
            os._exit(128 + signal.SIGTERM)


def _reach(hosts: tuple[str, ...], port: int) -> socket.socket:
    problems = []
    for host in hosts:
        try:
            return socket.create_connection((host, port), timeout=CONNECT_S)
        except OSError as error:
            problems.append(f"{host}: {error}")
    raise TrainingError(
        f"rank 0 cannot be reached at port {port} ({'; '.join(problems)}); "
        "the machines of a job must let each other connect at any port above 1023"
    )


def _end(text: str) -> NoReturn:
    cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar hides it
    os.write(2, f"{cursor}error: {text}\n".encode())  # sys.stderr may be locked by a thread that hangs
    tell_launcher(text)
    os._exit(EXIT_CODE)
