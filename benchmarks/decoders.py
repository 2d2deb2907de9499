"""Two untrained networks of one size, ours and transformers' GPT-2, and the ways to decode with them."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel
from transformers.generation.streamers import BaseStreamer
from turns import wait_for

from armd_dist.generation.decoder import Decoding
from armd_dist.generation.passes import make_batch, turns_of
from armd_dist.generation.sampling import Sampling
from armd_dist.model.armd import ARMD
from armd_dist.model.config import ModelConfig
from armd_dist.model.initialization import initialize
from armd_dist.model.layers import PlainLayers
from armd_dist.model.layout import lay_out
from armd_dist.model.packing import pack
from armd_dist.orders.strided import strided_places

BOS = 1
STREAMS = (1, 2, 4, 8)
NO_CACHE, GENERATE, LOOP = "no cache", "GPT-2, generate()", "GPT-2, loop"


@dataclass(frozen=True)
class Size:
    """What is measured. cases: (texts decoded together, tokens of each prompt). The first one is also decoded without a
    cache, which costs the square of the length."""

    hidden: int
    layers: int
    heads: int
    vocab: int
    new_tokens: int
    cases: tuple[tuple[int, int], ...]
    device: str
    dtype: torch.dtype
    rounds: int

    @property
    def longest(self) -> int:
        return self.new_tokens + max(prompt for _, prompt in self.cases)


@dataclass(frozen=True)
class Run:
    """One decode: tokens [batch, new tokens], seconds to the first of them and to the last; of ours their nats."""

    tokens: Tensor
    first: float
    last: float
    nats: Tensor | None = None


Way = Callable[[Tensor], Run]  # of prompts [batch, tokens], BOS not included


class Contest:
    """The two networks, and the ways to decode with them."""

    def __init__(self, size: Size, clock: Callable[[], float] = time.perf_counter) -> None:
        self.size, self.device, self.clock = size, torch.device(size.device), clock
        shape = {"vocab_size": size.vocab, "hidden_size": size.hidden, "num_layers": size.layers}
        shape |= {"max_sequence_length": size.longest, "num_attention_heads": size.heads}
        config = ModelConfig.model_validate(shape)
        self.armd = ARMD(config, PlainLayers())
        initialize(self.armd, config, seed=0)
        torch.manual_seed(0)
        self.gpt2 = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=size.vocab,
                n_positions=size.longest + 1,
                n_embd=size.hidden,
                n_layer=size.layers,
                n_head=size.heads,
                bos_token_id=BOS,
                eos_token_id=None,
            )
        )
        networks: list[torch.nn.Module] = [self.armd, self.gpt2]
        for network in networks:
            network.to(self.device).eval().requires_grad_(False)
        self.networks = networks
        pack(self.armd)

    def ways(self, case: tuple[int, int]) -> dict[str, Way]:
        ways: dict[str, Way] = {f"S = {streams}": lambda p, s=streams: self.decode(p, s) for streams in STREAMS}
        if case == self.size.cases[0]:
            ways[NO_CACHE] = lambda prompts: self.without_cache(prompts, 1)
        return ways | {GENERATE: self.generate, LOOP: self.loop}

    def decode(self, prompts: Tensor, streams: int) -> Run:
        batch, count = len(prompts), self.size.new_tokens
        texts = [[*known, *[None] * count] for known in prompts.tolist()]
        turns = [turns_of(strided_places(count, streams))] * batch
        # An end that no text has, so that all of them are decoded in full while ends are looked for.
        began, never = self.clock(), self.size.vocab
        decoding = Decoding(self.armd, *make_batch(texts, turns, BOS), Sampling(0), BOS, range(batch), never)
        decoding.step()
        first = self._since(began)
        while decoding.open:
            decoding.step()
        made = decoding.result()
        return Run(made.tokens[:, -count:], first, self._since(began), -made.logprobs[:, -count:])

    @torch.no_grad()
    def without_cache(self, prompts: Tensor, streams: int) -> Run:
        """Every pass reads all that is there so far, and the places to fill."""
        known, began, first = prompts.shape[1], self.clock(), 0.0
        ids, order = prompts.to(self.device), torch.arange(1, known + 1).expand(len(prompts), -1)
        places, nats = order, torch.zeros(ids.shape, device=self.device)
        for number, block in enumerate(strided_places(self.size.new_tokens, streams), start=known + 1):
            filled = torch.tensor([known + 1 + place for place in block]).expand(len(prompts), -1)
            places = torch.cat((places, filled), dim=1)
            order = torch.cat((order, torch.full_like(filled, number)), dim=1)
            ids = torch.cat((ids, torch.full_like(filled, BOS, device=self.device)), dim=1)
            layout = lay_out(ids, places.to(self.device), order.to(self.device), BOS)
            # Dense: on a GPU a kernel for masks of blocks would be compiled for the lengths.
            layout = replace(layout, visibility=layout.visibility.dense())
            scores, likeliest = self.armd(layout, asked=len(block))[..., : self.size.vocab].log_softmax(-1).max(-1)
            ids[:, -len(block) :] = likeliest.t()
            nats = torch.cat((nats, -scores.t()), dim=1)
            first = first or self._since(began)
        tokens, nats = (torch.empty_like(part).scatter(1, places.to(self.device) - 1, part) for part in (ids, nats))
        return Run(tokens[:, known:].cpu(), first, self._since(began), nats[:, known:].cpu())

    def generate(self, prompts: Tensor) -> Run:
        watch, began = Watch(self.device, self.clock), self.clock()
        never, options = self.size.vocab, {"do_sample": False, "pad_token_id": 0}
        given = behind_bos(prompts).to(self.device)
        made = self.gpt2.generate(  # type: ignore[operator]
            given, max_new_tokens=self.size.new_tokens, eos_token_id=never, streamer=watch, **options
        )
        tokens = made[:, given.shape[1] :].cpu()
        return Run(tokens, watch.first - began, self._since(began))

    @torch.no_grad()
    def loop(self, prompts: Tensor) -> Run:
        began, first, cache = self.clock(), 0.0, DynamicCache()
        given, made = behind_bos(prompts).to(self.device), []
        for _ in range(self.size.new_tokens):
            logits = self.gpt2(given, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            given = logits[:, -1].argmax(-1, keepdim=True)
            made.append(given)
            first = first or self._since(began)
        return Run(torch.cat(made, dim=1).cpu(), first, self._since(began))

    def _since(self, began: float) -> float:
        wait_for(self.device)
        return self.clock() - began


class Watch(BaseStreamer):
    """When generate() has its first token; it shows the prompt first."""

    def __init__(self, device: torch.device, clock: Callable[[], float]) -> None:
        self.device, self.clock, self.shown, self.first = device, clock, 0, 0.0

    def put(self, value: Tensor) -> None:
        self.shown += 1
        if self.shown == 2:
            wait_for(self.device)
            self.first = self.clock()

    def end(self) -> None:
        """Nothing is left to show."""


def behind_bos(prompts: Tensor) -> Tensor:
    return torch.nn.functional.pad(prompts, (1, 0), value=BOS)
