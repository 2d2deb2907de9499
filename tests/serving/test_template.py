"""Chat templates that are not there, cannot be read, or will not take a conversation."""

import json
from pathlib import Path
from typing import Any

import pytest
from inprocess import CHATS, Serve, post, refused

from armd_dist.errors import ExportError
from armd_dist.serving.template import read_template

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "to"}], "max_tokens": 4}


def test_a_chat_without_a_template(serve: Serve, tmp_path: Path) -> None:
    message = refused(post(serve, CHATS, json.dumps(CHAT).encode(), folder=tmp_path), 400, "messages")
    assert "put a chat_template.jinja into its export" in message


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
