"""Headless Chromium over its DevTools protocol. `python tests/serving/browser.py URL OUT.png` takes a picture."""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

SECONDS = 60


class Tab:
    """An open page."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._number = socket, 0
        self.said: list[str] = []

    async def call(self, method: str, **given: Any) -> dict[str, Any]:
        """One command and its result; what the page complains about meanwhile goes into `said`."""
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": given})
        while True:
            message = json.loads(await self._socket.receive_str(timeout=SECONDS))
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.said.append(json.dumps(message["params"]))
            if message.get("id") == self._number:
                return message.get("result", {"result": {}})  # none while the page is still on its way

    async def run(self, script: str) -> Any:
        """Of JavaScript in the page."""
        done = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    async def until(self, script: str) -> Any:
        """Its value once it is true."""
        deadline = time.monotonic() + SECONDS
        while not (value := await self.run(script)):
            assert time.monotonic() < deadline, f"{script} stays false"
            await asyncio.sleep(0.01)
        return value


@asynccontextmanager
async def open_page(chromium: str, url: str, size: str = "1000,700") -> AsyncIterator[Tab]:
    """The page in a browser of its own, which asks nobody else for anything."""
    with tempfile.TemporaryDirectory() as folder:
        words = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run"]
        words += ["--disable-background-networking", f"--window-size={size}", f"--user-data-dir={folder}", url]
        with subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as browser:
            try:
                port = await _port(Path(folder) / "DevToolsActivePort")
                async with aiohttp.ClientSession() as session, session.ws_connect(await _page(session, port)) as socket:
                    tab = Tab(socket)
                    for part in ("Runtime", "Log", "Page"):
                        await tab.call(f"{part}.enable")
                    yield tab
            finally:
                browser.terminate()
                browser.wait(20)


async def _port(file: Path) -> int:
    deadline = time.monotonic() + SECONDS
    while not (file.exists() and file.read_text().strip()):
        assert time.monotonic() < deadline, "chromium does not start"
        await asyncio.sleep(0.05)
    return int(file.read_text().splitlines()[0])


async def _page(session: aiohttp.ClientSession, port: int) -> str:
    while True:
        async with session.get(f"http://127.0.0.1:{port}/json") as response:
            pages = [page for page in await response.json() if page["type"] == "page"]
        if pages:
            return pages[0]["webSocketDebuggerUrl"]
        await asyncio.sleep(0.05)


async def ask(tab: Tab, prompt: str, **fields: object) -> None:
    """Types, chooses and presses the button, as a person does."""
    await tab.until("document.readyState === 'complete' && !!document.getElementById('go')")
    await tab.run("document.getElementById('prompt').focus(); document.getElementById('prompt').select()")
    await tab.call("Input.insertText", text=prompt)
    for field, value in fields.items():
        await tab.run(f"document.getElementById('{field}').value = {json.dumps(str(value))}")
    await tab.run("document.getElementById('go').click()")


async def picture(url: str, out: Path) -> None:
    """Of a text in four streams, half of it there."""
    import base64

    async with open_page("chromium", url) as tab:
        await ask(tab, "Return the first of these", streams=4, tokens=116)
        await tab.until("document.querySelectorAll('#text .token').length > 40")
        shot = await tab.call("Page.captureScreenshot", format="png")
        out.write_bytes(base64.b64decode(shot["data"]))


if __name__ == "__main__":
    asyncio.run(picture(sys.argv[1], Path(sys.argv[2])))
