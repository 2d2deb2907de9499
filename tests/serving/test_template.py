"""Chat templates that are not there, cannot be read, or will not take a conversation."""

import json
from pathlib import Path
from typing import Any

import pytest
from inprocess import CHATS, Serve, post, refused

from armd_dist.errors import ExportError
from armd_dist.model.armd import ARMD
from armd_dist.serving.protocol import Message
from armd_dist.serving.template import read_template
from data_pipeline.tokenizer import Tokenizer

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "to"}], "max_tokens": 4}


def test_a_chat_without_a_template(serve: Serve, tmp_path: Path) -> None:
    message = refused(post(serve, CHATS, json.dumps(CHAT).encode(), folder=tmp_path), 400, "messages")
    assert "start the server with armd serve --chat-template FILE" in message


def test_templates_that_cannot_serve(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('no such role') }}")
    message = refused(post(serve, CHATS, json.dumps(CHAT).encode(), folder=tmp_path), 400, "messages")
    assert "no such role" in message
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].__class__.__mro__ }}")
    refused(post(serve, CHATS, json.dumps(CHAT).encode(), folder=tmp_path), 400, "messages")
    (tmp_path / "chat_template.jinja").write_text("{% for %}")
    with pytest.raises(ExportError, match="its chat template is none"):
        read_template(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    named = [{"name": "tool", "template": "x"}, {"name": "default", "template": "{{ messages }}"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert read_template(tmp_path) is not None
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ExportError, match="its chat template cannot be read"):
        read_template(tmp_path)


def test_a_template_that_is_given_goes_before_the_exports(opened: tuple[ARMD, Tokenizer], tmp_path: Path) -> None:
    export, other, file = tmp_path / "export", tmp_path / "other", tmp_path / "given.jinja"
    for folder in (export, other):
        folder.mkdir()
    (export / "chat_template.jinja").write_text("export")
    (other / "tokenizer_config.json").write_text('{"chat_template": "other"}')
    file.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    said = [Message(role="user", content="to be")]
    for given, text in ((None, "export"), (other, "other"), (file, "to be")):
        template = read_template(export, given)
        assert template is not None
        assert opened[1].decode(template.encode(said, opened[1])) == text
    file.write_text("{% if %}")
    (other / "tokenizer_config.json").unlink()
    for given, problem in (
        (file, r"given\.jinja: its chat template is none"),
        (other, "--chat-template .*other: the folder has none; give a Jinja file"),
        (tmp_path / "nowhere", "nowhere: cannot be read"),
    ):
        with pytest.raises(ExportError, match=problem):
            read_template(export, given)
