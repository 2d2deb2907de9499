"""Answers in OpenAI's shapes."""

import secrets
import time
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel

from armd_dist.serving.engine import Landed, Step
from armd_dist.serving.written import REPLACEMENT, Written
from data_pipeline.tokenizer import Tokenizer


class Reply:
    """One answer under way, of a completion or a chat; what every object of it repeats.

    logprobs: whether tokens and their nats are said too.
    """

    def __init__(self, kind: Literal["completion", "chat"], model: str, tokenizer: Tokenizer, logprobs: bool) -> None:
        self.kind, self.tokenizer, self.logprobs = kind, tokenizer, logprobs
        prefix = "cmpl" if kind == "completion" else "chatcmpl"
        self.same = {"id": f"{prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}

    def whole(self, written: Sequence[Written]) -> dict[str, Any]:
        """All choices, finished."""
        name = "text_completion" if self.kind == "completion" else "chat.completion"
        choices = []
        for number, one in enumerate(written):
            choice: dict[str, Any] = {"index": number, "finish_reason": one.finish}
            choice["logprobs"] = self._logprobs(one, range(len(one.tokens)))
            if self.kind == "completion":
                choice["text"] = one.text
            else:
                choice["message"] = {"role": "assistant", "content": one.text, "refusal": None}
            choices.append(choice)
        return {**self.same, "object": name, "choices": choices, "usage": usage(written)}

    def chunk(self, number: int, written: Written, step: Step | None) -> dict[str, Any] | None:
        """What has become final since the last one; None where that is nothing. step: to say what landed in it."""
        text, tokens = written.unsent()
        positions = [self._position(landed, written) for landed in step.landed] if step is not None else []
        if not (text or tokens or positions or written.finish):
            return None
        choice: dict[str, Any] = {"index": number, "finish_reason": written.finish}
        choice["logprobs"] = self._logprobs(written, tokens)
        if self.kind == "completion":
            choice["text"] = text
        else:
            choice["delta"] = {"content": text}
        if step is not None:
            choice["armd_positions"] = positions
        return self._event([choice])

    def roles(self, count: int) -> dict[str, Any]:
        """A chat's first chunk."""
        delta = {"role": "assistant", "content": ""}
        return self._event([{"index": n, "delta": delta, "finish_reason": None} for n in range(count)])

    def last(self, written: Sequence[Written]) -> dict[str, Any]:
        """The chunk of stream_options.include_usage."""
        return {**self._event([]), "usage": usage(written)}

    def _event(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        name = "text_completion" if self.kind == "completion" else "chat.completion.chunk"
        return {**self.same, "object": name, "choices": choices}

    def _logprobs(self, written: Written, tokens: Sequence[int]) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        landed = [written.tokens[number] for number in tokens]
        if self.kind == "chat":
            return {"content": [self._of_chat(one) for one in landed]}
        return {
            "tokens": [self._spelled(one.token) for one in landed],
            "token_logprobs": [one.nats for one in landed],
            "top_logprobs": [{self._spelled(token): nats for token, nats in one.tops} for one in landed],
            "text_offset": [written.offsets[number] for number in tokens],
        }

    def _of_chat(self, landed: Landed) -> dict[str, Any]:
        tops = [self._named(token, nats) for token, nats in landed.tops]
        return {**self._named(landed.token, landed.nats), "top_logprobs": tops}

    def _named(self, token: int, nats: float) -> dict[str, Any]:
        text = self.tokenizer.decode([token])
        return {
            "token": self._spelled(token),
            "logprob": nats,
            "bytes": None if REPLACEMENT in text else list(text.encode()),
        }

    def _spelled(self, token: int) -> str:
        """Its text, or its piece where that is none by itself."""
        text = self.tokenizer.decode([token])
        return text if text and REPLACEMENT not in text else self.tokenizer.pieces([token])[0]

    def _position(self, landed: Landed, written: Written) -> dict[str, Any]:
        """position: among the tokens asked for, from 0."""
        position = landed.place - written.first
        return {"position": position, "token": landed.token, "text": self.tokenizer.decode([landed.token])}


def usage(written: Sequence[Written]) -> dict[str, int]:
    """Tokens read and generated, each text's own; armd_passes: forward passes that the longest-running one took."""
    prompt, made = sum(one.known for one in written), sum(len(one.tokens) for one in written)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": made,
        "total_tokens": prompt + made,
        "armd_passes": max(one.passes for one in written),
    }


class ErrorBody(BaseModel):
    """What is wrong; `param` names the field."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """Any answer with a status from 400 on."""

    error: ErrorBody


class Usage(BaseModel):
    """Tokens, and forward passes."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    armd_passes: int


class Completion(BaseModel):
    """Answer of /v1/completions; each choice has index, text, finish_reason and logprobs."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: Usage


class ChatCompletion(BaseModel):
    """Answer of /v1/chat/completions; each choice has index, message, finish_reason and logprobs."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: Usage
