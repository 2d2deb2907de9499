"""The chat template of an export: how a conversation becomes a text."""

import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from armd_dist.errors import ExportError
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
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
        environment.globals["raise_exception"] = _refuse
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ExportError(f"{path}: its chat template is none ({error}); mend it, or take it out") from error

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


def read_template(model: Path) -> ChatTemplate | None:
    """Of an export that has one, in chat_template.jinja or tokenizer_config.json. Raises ExportError."""
    file, settings = model / "chat_template.jinja", model / "tokenizer_config.json"
    try:
        if file.is_file():
            return ChatTemplate(file.read_text(encoding="utf-8"), file)
        if not settings.is_file():
            return None
        found: Any = json.loads(settings.read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError, AttributeError) as error:
        raise ExportError(f"{model}: its chat template cannot be read ({error})") from error
    if isinstance(found, list):  # several, by name
        found = next((one.get("template") for one in found if one.get("name") == "default"), None)
    return ChatTemplate(found, settings) if isinstance(found, str) else None


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
