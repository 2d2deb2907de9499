"""A real HTTP server on this machine that serves a folder, counts requests, and does harm where a test asks for it."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOREVER = 1000


class DataServer(ThreadingHTTPServer):
    """`harm[name]`: what is done to the next requests for a file, one each; `pace`: seconds for 1,000 bytes of a tar.

    A number is the status of the answer; `half` promises all bytes and sends half of them, `short` promises half of
    them, `flip` changes one, `more` adds one, `silent` sends half and then nothing for a second. `requests` counts.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.harm, self.pace = folder, {}, 0.0
        self.requests: Counter[str] = Counter()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def tars(self) -> dict[str, int]:
        return {name: count for name, count in self.requests.items() if name.endswith(".tar")}

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes is no error of ours."""


class _Handler(BaseHTTPRequestHandler):
    server: DataServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        self.server.requests[name] += 1
        harm = self.server.harm.get(name, [])
        what, path = harm.pop(0) if harm else None, self.server.folder / name
        if isinstance(what, int) or not path.is_file():
            self.send_error(what if isinstance(what, int) else 404)
            return
        data = path.read_bytes()
        half = len(data) // 2
        body = {
            "half": data[:half],
            "silent": data[:half],
            "short": data[:half],
            "flip": data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :],
            "more": data + b"\0",
        }.get(what or "", data)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data) if what in ("half", "silent") else len(body)))
        self.end_headers()
        for start in range(0, len(body), 1000):
            self.wfile.write(body[start : start + 1000])
            time.sleep(self.server.pace if name.endswith(".tar") else 0)
        if what == "silent":
            time.sleep(1)
        self.close_connection = what in ("half", "silent")

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[DataServer]:
    with DataServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
