"""Bodies of requests: OpenAI's fields and ours. Nothing is read as another type, and nothing unknown passes."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

LARGEST_SEED = 2**53 - 1  # what JSON's readers agree on
SMALLEST_TEMPERATURE = 0.01


def _spelled(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is no character; send valid Unicode") from None
    return text


def _temperature(value: float) -> float:
    if 0 < value < SMALLEST_TEMPERATURE:
        raise ValueError(f"use 0 for the likeliest token, or a number from {SMALLEST_TEMPERATURE} up")
    return value


def _whole(value: Any) -> Any:
    """JSON knows one kind of numbers: 4.0 is whole, too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _neutral(value: Any) -> Any:
    if value:
        raise ValueError("is not supported here; leave it out")
    return value


Words = Annotated[str, AfterValidator(_spelled)]
Stop = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_spelled)]
# Bounds stand inside, where the schema shows them.
Count = Annotated[int, Field(ge=1, lt=2**31), BeforeValidator(_whole)]
Token = Annotated[int, Field(ge=0, lt=2**31), BeforeValidator(_whole)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED), BeforeValidator(_whole)]
Texts = Annotated[int, Field(ge=1, le=128), BeforeValidator(_whole)]
Tops = Annotated[int, Field(ge=0, le=20), BeforeValidator(_whole)]
Temperature = Annotated[float, Field(ge=0, le=100), AfterValidator(_temperature)]
# What OpenAI's clients may send at its default, and we cannot do.
Unsupported = Annotated[Any, BeforeValidator(_neutral), WithJsonSchema({"enum": [None, 0, False, "", [], {}]})]


class StreamOptions(BaseModel):
    """armd_positions: every token as it lands, with its place, beside the text that has become final."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False
    armd_positions: bool = False


class Asked(BaseModel):
    """What both kinds of requests share."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: Words = Field(..., description="As /v1/models names it.")
    temperature: Temperature | None = Field(1.0, description="0 takes the likeliest token; else 0.01 or more.")
    # The lower bound is far from what fp32 takes for 0, which would leave no token.
    top_p: float | None = Field(1.0, ge=1e-6, le=1, description="Sample among the likeliest tokens of this total mass.")
    top_k: Count | None = Field(None, description="Sample among the k likeliest tokens.")
    min_p: float | None = Field(
        None, ge=0, le=1, description="Sample among tokens of at least this share of the likeliest one's mass."
    )
    repetition_penalty: float | None = Field(
        1.0, ge=0.01, le=100, description="Above 1 tokens that stand in the text become less likely."
    )
    streams: Count = Field(1, description="Strided streams S: S tokens at a time after the heads; at most max_tokens.")
    seed: Seed | None = Field(None, description="Of the first text; the next takes one more. null: drawn.")
    n: Texts | None = Field(1, description="Texts for each prompt.")
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = Field(
        None, description="The text ends before the first of these; up to 16."
    )
    stream: bool | None = Field(False, description="Server-sent events: text as it becomes final.")
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="Taken and not used.")
    presence_penalty: Unsupported = 0
    frequency_penalty: Unsupported = 0
    logit_bias: Unsupported = None


class CompletionRequest(Asked):
    """POST /v1/completions."""

    prompt: Words | list[Words] | list[Token] | list[list[Token]] = Field(
        ..., description="A text, several, or one or several lists of token ids."
    )
    suffix: Words | None = Field(
        None, description="What follows the text that is asked for: a hole of max_tokens tokens is filled."
    )
    max_tokens: Count | None = Field(16, description="Tokens to generate for each text at most.")
    logprobs: Tops | None = Field(None, description="Log-probabilities of the tokens, and of so many likeliest ones.")
    echo: Literal[False] | None = Field(False, description="The prompt is not repeated.")
    best_of: Unsupported = None


class Part(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: Words


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_spelled)]
    content: Words | list[Part]
    name: Words | None = None

    @property
    def text(self) -> str:
        """Of all parts."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class PlainText(BaseModel):
    """The format of answers."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]


class ChatRequest(Asked):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(..., min_length=1)
    max_tokens: Count | None = Field(None, description="Older name of max_completion_tokens.")
    max_completion_tokens: Count | None = Field(
        None, description="Tokens to generate at most; null: as many as the model takes."
    )
    logprobs: bool | None = Field(False, description="Log-probabilities of the tokens.")
    top_logprobs: Tops | None = Field(None, description="And of so many likeliest ones; needs logprobs.")
    response_format: PlainText | None = Field(None, description="Text, and nothing else.")
    tools: Unsupported = None
    tool_choice: Unsupported = None
    functions: Unsupported = None
    function_call: Unsupported = None
    store: Unsupported = None
    parallel_tool_calls: bool | None = Field(None, description="Taken and not used: there are no tools.")
    metadata: dict[str, str] | None = Field(None, description="Taken and not used.")
    service_tier: str | None = Field(None, description="Taken and not used.")
