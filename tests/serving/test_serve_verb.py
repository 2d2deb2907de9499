"""What the verb says before it serves."""

import socket
from pathlib import Path

import pytest

from armd_dist.cli import serve as verb
from armd_dist.cli.serve import serve
from armd_dist.errors import ConfigError, ExportError


def test_a_port_that_is_taken(export: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            ConfigError, match=rf"--host, --port=127.0.0.1:{port}: cannot be listened at \(Address alre"
        ):
            serve(export, port=port, device="cpu")
    with pytest.raises(ConfigError, match=r"--host, --port=no.such.host:8000: cannot be listened at"):
        serve(export, host="no.such.host", device="cpu")


def test_more_slots_than_memory(export: Path) -> None:
    with pytest.raises(ConfigError, match=r"--slots=1000000000000: needs more memory than there is .*; use fewer"):
        serve(export, slots=10**12, device="cpu")


def test_a_key_that_keeps_nobody_out(export: Path) -> None:
    with pytest.raises(ConfigError, match="--api-key=: is empty; name one, or leave out"):
        serve(export, api_key=" ")


def test_a_time_that_is_no_number(export: Path) -> None:
    with pytest.raises(
        ConfigError, match="--request-timeout=nan: Input should be a finite number; see armd serve --help"
    ):
        serve(export, request_timeout=float("nan"))


def test_the_extra_is_missing(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "find_spec", lambda name: None if name == "uvicorn" else name)
    with pytest.raises(ExportError, match=r"armd serve needs uvicorn; pip install 'armd-dist\[serve\]'"):
        serve(export)


def test_who_listens_to_all_without_a_key_is_told(
    export: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("armd_dist.serving.run.Server.run", lambda self, tell: tell("http://there:1"))
    for host, key, warned in (("0.0.0.0", None, True), ("0.0.0.0", "a", False), ("127.0.0.2", None, False)):
        serve(export, host=host, api_key=key, name="mine", device="cpu")
        said = capsys.readouterr()
        assert said.out == "mine at http://there:1\n"
        assert said.err.startswith("no API key: whoever reaches 0.0.0.0 may ask") == warned
