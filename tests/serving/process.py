"""`armd serve` as a process of its own, and OpenAI's client of it."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
from ranks import TIMEOUT_SECONDS, environment

KEY = "a key"


@dataclass
class Served:
    """A server that runs."""

    process: subprocess.Popen[str]
    address: str

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.address}/v1", api_key=KEY, max_retries=0, timeout=TIMEOUT_SECONDS)

    def ask(self, client: openai.OpenAI, body: dict[str, Any]) -> str:
        """By the official client; every second time streamed."""
        asked: dict[str, Any] = {**body, "model": "tiny", "temperature": 0}
        extra = {"streams": asked.pop("streams")}
        if asked["max_tokens"] % 2:
            return client.completions.create(**asked, extra_body=extra).choices[0].text
        return "".join(c.choices[0].text for c in client.completions.create(**asked, extra_body=extra, stream=True))

    def metric(self, name: str) -> int:
        found = re.search(rf"^{name} (\S+)$", httpx.get(f"{self.address}/metrics").text, re.MULTILINE)
        assert found is not None
        return int(float(found[1]))

    def wait_until_idle(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.metric("armd_texts_running") + self.metric("armd_texts_waiting") > 0:
            assert time.monotonic() < deadline, "slots must come free"
            time.sleep(0.02)


@contextmanager
def serving(export: Path, key: str | None = KEY) -> Iterator[Served]:
    """Four slots at a free port, until the end of the block at most."""
    words = [sys.executable, "-m", "armd_dist", "serve", str(export), "--port", "0", "--slots", "4", "--device", "cpu"]
    asked = {**environment(), **({} if key is None else {"ARMD_API_KEY": key})}
    with subprocess.Popen(words, env=asked, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("tiny at http://127.0.0.1:"), line
        yield Served(process, line.split()[-1])
        process.kill()
