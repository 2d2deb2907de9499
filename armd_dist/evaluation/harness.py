"""A model under lm-evaluation-harness, as `--model armd`. To import this file needs the package lm_eval."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]  an optional extra
from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]
from tqdm import tqdm

from armd_dist.errors import EvaluationError
from armd_dist.evaluation.evaluate import Evaluation
from armd_dist.evaluation.opening import DTYPES, make_ready
from armd_dist.evaluation.perplexity import documents
from armd_dist.evaluation.schemes import Scheme
from armd_dist.evaluation.study import Wanted, passages_of
from armd_dist.evaluation.texts import Document, TextSet
from armd_dist.export.open import device_of, require_armd, window_length
from armd_dist.generation.generate import answer
from armd_dist.generation.requests import Ordering, Prepared, Request
from armd_dist.generation.sampling import Sampling
from armd_dist.model.denoiser import Denoiser

MAX_NEW_TOKENS = 256  # where a task names no number, as in the harness; at most half of the model's length
ARGUMENTS = "path, streams, orders, ema, dtype, max_length, stride, seed"
WANTED_OF_TEXT = ("until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")


@dataclass(frozen=True)
class Wish:
    """What a task wants of a text: where it stops, how long it may become, how its tokens are drawn."""

    until: tuple[str, ...]
    max_new_tokens: int
    sampling: Sampling

    def cut(self, text: str) -> str:
        """The text before the first of its stops."""
        ends = [text.find(stop) for stop in self.until if stop and stop in text]
        return text[: min(ends, default=len(text))]


@register_model("armd")
class ArmdLM(LM):
    """Model arguments, after `--model_args`, of which only path is needed:

    path: a run, a checkpoint or an export; ema, dtype: as of `armd eval`. streams: texts are scored and written in so
    many streams. orders: score by the bound over so many random orders instead (of a denoiser: maskings). max_length,
    stride: windows of texts that are longer, as of `armd eval`. seed: of drawn tokens; request n takes seed + n.
    """

    def __init__(
        self,
        path: str = "",
        streams: int = 1,
        orders: int | None = None,
        ema: bool = False,
        dtype: str = "float32",
        max_length: int | None = None,
        stride: int | None = None,
        seed: int = 0,
        batch_size: int | str = 16,
        device: str | None = None,
        **others: Any,
    ) -> None:
        super().__init__()
        unknown = sorted(set(others) - {"max_batch_size"})
        if unknown or not path:
            wrong = f"{unknown[0]}: is unknown" if unknown else "path: is missing"
            raise EvaluationError(f"--model_args {wrong}; use {ARGUMENTS}, such as path=runs/mine,streams=4")
        if dtype not in DTYPES:
            raise EvaluationError(f"--model_args dtype={dtype}: is unknown; use {', '.join(DTYPES)}")
        if orders and streams != 1:
            raise EvaluationError(f"--model_args streams={streams}: orders={orders} are random; leave one of them out")
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise EvaluationError(f"--batch_size {batch_size}: is no number from 1 up; give one, such as 16")
        _check_numbers({"streams": streams, "orders": orders, "max_length": max_length, "stride": stride})
        self._device = device_of(device)
        self.ready = make_ready(Path(path), None, self._device, dtype, ema)
        self.path, self.streams, self.seed, self.batch_size = Path(path), streams, seed, int(batch_size)
        self.scheme = self._scheme(streams, orders)
        self.length = window_length(self.ready.opened, max_length)
        self.stride = min(stride or self.length, self.length)

    def _scheme(self, streams: int, orders: int | None) -> Scheme:
        """The last of those that `armd eval` would make."""
        exact = None if streams == 1 and isinstance(self.ready.opened.network, Denoiser) else [streams]
        return Wanted(exact, None, orders).schemes(self.ready, [])[-1]

    @property
    def tokenizer_name(self) -> str:
        """Tells requests in the harness' cache from those of other tokenizers."""
        return f"armd-{self.ready.opened.tokenizer.sha256}"

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Nats of continuations behind their contexts, negative; and whether no other token was likelier.

        Under a bound that is false: the likeliest text is not known.
        """
        asked = [_pair(*request.args) for request in requests]
        return [(-nats, likeliest and self.scheme.exact) for nats, likeliest in self._scores(asked, disable_tqdm)]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Nats of whole texts behind BOS, negative; long ones in windows."""
        asked = [Document(request.args[0]) for request in requests]
        return [-nats for nats, _ in self._scores(asked, disable_tqdm)]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continuations up to their first stop, in `streams` streams."""
        longest = self.ready.opened.network.config.max_sequence_length
        wishes = [read_wish(request.args[1], longest) for request in requests]
        # A batch is drawn in one way, and texts of like length pad each other least.
        order = sorted(range(len(requests)), key=lambda n: (repr(wishes[n].sampling), len(requests[n].args[0])))
        texts: dict[int, str] = {}
        with tqdm(total=len(requests), desc="armd writes", disable=disable_tqdm) as bar:
            for _, alike in groupby(order, key=lambda n: wishes[n].sampling):
                numbers = list(alike)
                for start in range(0, len(numbers), self.batch_size):
                    batch = numbers[start : start + self.batch_size]
                    texts |= self._write([(n, requests[n].args[0], wishes[n]) for n in batch], longest)
                    bar.update(len(batch))
        return [texts[number] for number in range(len(requests))]

    def _scores(self, texts: list[Document], quiet: bool) -> list[tuple[float, bool]]:
        """Nats of each text, and whether each of its tokens was the likeliest."""
        texts_of = TextSet("requests", texts, "none", "lm_eval", "")
        source = passages_of(self.ready, texts_of, self.length, self.stride).source
        bos_id = self.ready.opened.tokenizer.bos_id
        evaluation = Evaluation(self.ready.scorer, source, bos_id, self.batch_size)
        with tqdm(total=len(source.shapes) * self.scheme.draws, desc=self.scheme.name, disable=quiet) as bar:
            records = evaluation.records(self.scheme, bar.update)
        return [(nats, likeliest) for nats, _, likeliest in documents(records)]

    def _write(self, asked: list[tuple[int, str, Wish]], longest: int) -> dict[int, str]:
        """Texts by the requests' numbers. A context that is too long loses its beginning."""
        model, tokenizer = require_armd(self.ready.opened.network, self.path), self.ready.opened.tokenizer
        prepared = []
        for number, context, wish in asked:
            new, seed = wish.max_new_tokens, self.seed + number
            known = tokenizer.encode(context)[-(longest - new) :]
            turns = Ordering("strided", min(self.streams, new)).turns(new, seed)
            prepared.append(Prepared(Request((context, new), seed), [*known, *[None] * new], turns))
        samples = answer(model, tokenizer, prepared, asked[0][2].sampling)
        return {number: wish.cut(one.text) for (number, _, wish), one in zip(asked, samples, strict=True)}


def _check_numbers(arguments: dict[str, Any]) -> None:
    for name, value in arguments.items():
        if value is not None and (type(value) is not int or value < 1):
            raise EvaluationError(f"--model_args {name}={value}: is no whole number from 1 up; give one")


def _pair(context: str, continuation: str) -> Document:
    """Blanks at the context's end belong to the continuation, as in the harness' own models."""
    kept = context.rstrip()
    return Document(context[len(kept) :] + continuation, kept)


def read_wish(settings: dict[str, Any], longest: int) -> Wish:
    """Of a task's generation settings. Raises EvaluationError for what the model of `longest` tokens has not."""
    if unknown := sorted(set(settings) - set(WANTED_OF_TEXT)):
        name = unknown[0]
        raise EvaluationError(f"--gen_kwargs {name}={settings[name]}: is unknown; use {', '.join(WANTED_OF_TEXT)}")
    until, new = settings.get("until") or [], int(settings.get("max_gen_toks", min(MAX_NEW_TOKENS, longest // 2)))
    if not 0 < new < longest:
        rule = f"leaves no room for a context in the model's {longest} tokens"
        raise EvaluationError(f"--gen_kwargs max_gen_toks={new}: {rule}; use 1 to {longest - 1}")
    heat = settings.get("temperature")
    drawn = settings.get("do_sample", bool(heat))
    try:
        sampling = Sampling(
            temperature=(1.0 if heat is None else float(heat)) if drawn else 0.0,
            top_k=settings.get("top_k"),
            top_p=settings.get("top_p"),
            min_p=settings.get("min_p"),
            repetition_penalty=float(settings.get("repetition_penalty", 1.0)),
        )
    except ValueError as error:
        raise EvaluationError(f"--gen_kwargs {error}") from error
    return Wish((until,) if isinstance(until, str) else tuple(until), new, sampling)
