"""A server from its model to its end."""

import asyncio
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass

import uvicorn

from armd_dist.errors import ConfigError, Problem
from armd_dist.generation.continuous import ContinuousDecoder
from armd_dist.generation.requests import Ordering, Prepared, Request
from armd_dist.generation.sampling import Sampling
from armd_dist.generation.underway import Text
from armd_dist.model.armd import ARMD
from armd_dist.serving.app import make_app
from armd_dist.serving.asking import Reader
from armd_dist.serving.config import ServingConfig
from armd_dist.serving.engine import Engine
from armd_dist.serving.template import ChatTemplate
from data_pipeline.tokenizer import Tokenizer

LOOK_S = 0.05  # between two looks at whether the running requests have ended
LAST_WORDS_S = 5  # for answers that are written already to reach their clients


@dataclass(frozen=True)
class Server:
    """What there is to serve."""

    config: ServingConfig
    reader: Reader
    decoder: ContinuousDecoder

    def run(self, tell: Callable[[str], None]) -> None:
        """Until SIGTERM or SIGINT, which let running requests finish. tell: is given the address, once it listens.

        Raises ConfigError where it cannot listen there.
        """
        listener = _listen(self.config)
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        asyncio.run(self._serve(listener, lambda: tell(f"http://{shown}:{port}")))

    async def _serve(self, listener: socket.socket, listening: Callable[[], None]) -> None:
        engine = Engine(self.decoder, self.config.max_queue)
        engine.start()
        app = make_app(self.config, self.reader, engine)
        settings = uvicorn.Config(
            app, lifespan="off", access_log=False, log_level="warning", timeout_graceful_shutdown=LAST_WORDS_S
        )
        server = uvicorn.Server(settings)
        serving = asyncio.create_task(server.serve([listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        ending = asyncio.create_task(self._end_when_told(server, engine))
        listening()
        await serving
        ending.cancel()
        engine.stop()

    async def _end_when_told(self, server: uvicorn.Server, engine: Engine) -> None:
        """First no new requests, then those that run, for so long; a second signal ends them at once."""
        told, again, loop = asyncio.Event(), asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: again.set() if told.is_set() else told.set())
        await told.wait()
        engine.closing = True
        deadline = loop.time() + self.config.shutdown_seconds
        while not engine.idle and loop.time() < deadline and not again.is_set():
            await asyncio.sleep(LOOK_S)
        engine.fail_all()
        server.should_exit = True


def make_server(model: ARMD, tokenizer: Tokenizer, template: ChatTemplate | None, config: ServingConfig) -> Server:
    """Takes the memory of all slots, so that it is missing now or never. Raises ConfigError."""
    decoder = ContinuousDecoder(model, config.slots)
    longest = model.config.max_sequence_length
    reader = Reader(tokenizer, longest, config.most_texts, template)
    try:
        for count in {1, min(2, longest)}:
            prepared = Prepared(Request(()), [None] * count, Ordering().turns(count, 0))
            decoder.step([Text(prepared, Sampling(0), tokenizer.bos_id, tokenizer.eos_id)])
            decoder.clear()
    except RuntimeError as error:
        rule = f"needs more memory than there is ({str(error).splitlines()[0]})"
        raise ConfigError([Problem("--slots", config.slots, rule, "use fewer")]) from error
    return Server(config, reader, decoder)


def _listen(config: ServingConfig) -> socket.socket:
    """A socket that is bound already: who asks for port 0 is told which one it is."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        where = f"{config.host}:{config.port}"
        rule = f"cannot be listened at ({error.strerror})"
        raise ConfigError(
            [Problem("--host, --port", where, rule, "use another one; --port 0 takes a free port")]
        ) from error
    listener.set_inheritable(True)
    return listener
