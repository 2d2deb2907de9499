"""From the body of a request to texts that the engine takes."""

import secrets
from dataclasses import dataclass

from armd_dist.generation.passes import check_length
from armd_dist.generation.requests import Ordering, Prepared, Request
from armd_dist.generation.sampling import Sampling
from armd_dist.generation.underway import Text
from armd_dist.serving.protocol import Asked, ChatRequest, CompletionRequest
from armd_dist.serving.refusals import Refusal
from armd_dist.serving.template import ChatTemplate
from data_pipeline.tokenizer import Tokenizer

DEFAULT_TOKENS = 16  # of a completion, as OpenAI has it


@dataclass(frozen=True)
class Reader:
    """What a request is read with. longest: tokens of a text that the model takes; most_texts: of one request."""

    tokenizer: Tokenizer
    longest: int
    most_texts: int
    template: ChatTemplate | None

    def completion(self, asked: CompletionRequest) -> list[Text]:
        """`n` texts for each prompt. Raises Refusal."""
        prompts = self._prompts(asked)
        self._check_count(len(prompts) * (asked.n or 1))
        behind = self.tokenizer.encode(asked.suffix) if asked.suffix else []
        count = asked.max_tokens or DEFAULT_TOKENS
        return self._texts(asked, prompts, behind, count, "max_tokens", asked.logprobs or 0)

    def chat(self, asked: ChatRequest) -> list[Text]:
        """`n` texts behind the conversation. Raises Refusal, also where there is no template."""
        if self.template is None:
            message = (
                "this model has no chat template; start the server with armd serve --chat-template FILE, "
                "or use /v1/completions"
            )
            raise Refusal(400, message, "messages", "no_chat_template")
        if asked.top_logprobs and not asked.logprobs:
            raise Refusal(400, f"top_logprobs={asked.top_logprobs}: needs logprobs=true", "top_logprobs")
        if asked.max_tokens and asked.max_completion_tokens:
            message = (
                f"max_tokens={asked.max_tokens}: is the older name of max_completion_tokens; leave one of them out"
            )
            raise Refusal(400, message, "max_tokens")
        self._check_count(asked.n or 1)
        prompt = self.template.encode(asked.messages, self.tokenizer)
        param = "max_tokens" if asked.max_tokens else "max_completion_tokens"
        count = asked.max_tokens or asked.max_completion_tokens or max(self.longest - len(prompt), 1)
        return self._texts(asked, [prompt], [], count, param, asked.top_logprobs or 0)

    def _prompts(self, asked: CompletionRequest) -> list[list[int]]:
        """Of texts, or of lists of ids."""
        prompt = asked.prompt
        if isinstance(prompt, str):
            return [self.tokenizer.encode(prompt)]
        if prompt and isinstance(prompt[0], int):
            return [self._checked(prompt)]  # type: ignore[arg-type]
        if not prompt:
            raise Refusal(400, "prompt=[]: holds no prompt; send a text, which may be empty", "prompt")
        self._check_count(len(prompt))
        return [self.tokenizer.encode(one) if isinstance(one, str) else self._checked(one) for one in prompt]  # type: ignore[arg-type]

    def _checked(self, ids: list[int]) -> list[int]:
        for token in ids:
            if token >= self.tokenizer.vocab_size:
                message = (
                    f"prompt: token {token} is outside of the vocabulary; use 0 to {self.tokenizer.vocab_size - 1}"
                )
                raise Refusal(400, message, "prompt")
        return ids

    def _check_count(self, texts: int) -> None:
        if texts > self.most_texts:
            raise Refusal(400, f"n: asks for {texts} texts in one request; {self.most_texts} are the most here", "n")

    def _texts(
        self, asked: Asked, prompts: list[list[int]], behind: list[int], count: int, param: str, top: int
    ) -> list[Text]:
        sampling = _sampling(asked)
        seed = secrets.randbits(48) if asked.seed is None else asked.seed
        turns = None
        made: list[Text] = []
        for prompt in prompts:
            try:
                check_length(len(prompt) + len(behind), count, self.longest)
            except ValueError as error:
                raise Refusal(400, f"{param}={count}: {error}", param, "context_length_exceeded") from error
            turns = turns or _turns(asked.streams, count)
            for _ in range(asked.n or 1):
                request = Request((), seed + len(made), infill=bool(behind))
                prepared = Prepared(request, [*prompt, *[None] * count, *behind], turns)
                made.append(Text(prepared, sampling, self.tokenizer.bos_id, self.tokenizer.eos_id, top))
        return made


def _turns(streams: int, count: int) -> list[int]:
    try:
        return Ordering("strided", streams).turns(count, 0)
    except ValueError as error:
        raise Refusal(400, str(error), "streams") from error


def _sampling(asked: Asked) -> Sampling:
    """Where null was sent, OpenAI's default."""
    return Sampling(
        temperature=1.0 if asked.temperature is None else asked.temperature,
        top_k=asked.top_k,
        top_p=asked.top_p,
        min_p=asked.min_p,
        repetition_penalty=asked.repetition_penalty or 1.0,
    )
