"""The chat template of an export: how a conversation becomes a text."""

import secrets
from collections.abc import Sequence
from pathlib import Path

from jinja2 import TemplateError

from armd_dist.export.chat_template import compile_template, find_template, given_template
from armd_dist.serving.protocol import Message
from armd_dist.serving.refusals import Refusal
from data_pipeline.tokenizer import Tokenizer


class ChatTemplate:
    """A Jinja template as Hugging Face writes them, rendered without access to anything but the conversation.

    `bos_token` is empty, since BOS stands before every text anyway; each `eos_token` becomes that token. Whatever else
    looks like a special token is text, as everywhere here.
    """

    def __init__(self, source: str, path: Path) -> None:
        """Raises ExportError where it is no template; path is for messages."""
        self._template = compile_template(source, path)

    def encode(self, messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
        """Tokens up to where the answer begins. Raises Refusal where the template cannot take these messages."""
        # Drawn anew each time: no message can hold it.
        end = f"<{secrets.token_hex(16)}>"
        given = [{"role": message.role, "content": message.text} for message in messages]
        for shown, message in zip(given, messages, strict=True):
            if message.name is not None:
                shown["name"] = message.name
        try:
            text = self._template.render(messages=given, add_generation_prompt=True, bos_token="", eos_token=end)
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise Refusal(400, f"messages: the chat template cannot take them: {error}", "messages") from error
        first, *others = (tokenizer.encode(part) for part in text.split(end))
        return first + [token for part in others for token in (tokenizer.eos_id, *part)]


def read_template(model: Path, given: Path | None = None) -> ChatTemplate | None:
    """That of the file or folder `given`, or else of an export that has one. Raises ExportError."""
    found = find_template(model) if given is None else given_template(given)
    return None if found is None else ChatTemplate(*found)
