"""Messages between the processes of a job that nobody ever waits for."""

import json
import socket
from typing import Any

from armd_dist.errors import TrainingError
from armd_dist.parallel.progress import Peer

CONNECT_S = 30.0
BUFFER = 1 << 16


class Connection:
    """Lines of JSON to and from another process. peer: who that is, once it has said so."""

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


def reach(hosts: tuple[str, ...], port: int) -> socket.socket:
    """A connection to the first of `hosts` (names of one machine) that answers. Raises TrainingError."""
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
