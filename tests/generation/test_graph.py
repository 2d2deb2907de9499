"""Passes of one shape, as they are captured on a GPU, are the ordinary ones: same tokens, same log-probabilities."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from toys import BOS, CONTEXTS, tiny_model

from armd_dist.generation import decoder, graph
from armd_dist.generation.decoder import Decoding, Generated, decode
from armd_dist.generation.graph import Steady, _rows_of_runs
from armd_dist.generation.passes import lay_columns, make_batch, turns_of
from armd_dist.generation.sampling import Sampling
from armd_dist.model.armd import ARMD
from armd_dist.orders.schemes import any_order
from armd_dist.orders.strided import strided_places

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
WAITING = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.equal)
Text = tuple[list[int | None], list[int]]
EOS = 6


def strided(known: list[int], count: int, streams: int) -> Text:
    return [*known, *[None] * count], turns_of(strided_places(count, streams))


def random(count: int) -> Text:
    turns = any_order(count, np.random.default_rng(count)).position.tolist()
    return [None, 5, *[None] * (count - 1)], turns


BATCHES: dict[str, list[Text]] = {
    "one_stream": [strided([3, 4], 9, 1)],
    "ragged": [strided([3], 18, 4)],
    "padded": [strided([3, 4, 9], 12, 4), strided([], 20, 4), strided([7], 5, 1)],
    "random": [random(9), random(7)],
    "blocks": [([2, *[None] * 13], [1 + place // 3 for place in range(13)])],
}


def made(model: ARMD, batch: list[Text], sampling: Sampling, **more: Any) -> Generated:
    seeds = range(3, 3 + len(batch))
    given = make_batch([text for text, _ in batch], [turns for _, turns in batch], BOS)
    return decode(model, *given, sampling, BOS, seeds, **more)


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steady passes also here, and short runs of them; the numbers of those that were run."""
    numbers: list[int] = []
    step = Steady.step

    def watched(self: Steady, number: int, place: Any) -> bool:
        ran = step(self, number, place)
        numbers.extend([number] * ran)
        return ran

    monkeypatch.setattr(decoder, "can_capture", lambda model: True)
    monkeypatch.setattr(graph, "LEAST", 2)
    monkeypatch.setattr(Steady, "step", watched)
    return numbers


CASES = [(context, 2, "padded") for context in CONTEXTS]
CASES += [("neighbours", layers, "ragged") for layers in (0, 1, 4)]
CASES += [("both", 2, name) for name in BATCHES]


@pytest.mark.parametrize(("context", "layers", "name"), CASES)
def test_steady_passes_change_nothing(
    context: str, layers: int, name: str, steady: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, sampling = tiny_model(query_context=context, two_stream_layers=layers), Sampling(repetition_penalty=1.3)
    found = made(model, BATCHES[name], sampling)
    monkeypatch.setattr(decoder, "can_capture", lambda model: False)
    wanted = made(model, BATCHES[name], sampling)
    assert torch.equal(found.tokens, wanted.tokens)
    assert (found.logprobs - wanted.logprobs).abs().max() < 1e-10
    assert (found.ends, found.passes) == (wanted.ends, wanted.passes)
    assert len(steady) >= 3, "ordinary passes before them, and perhaps behind"


@pytest.mark.parametrize("streams", [1, 4])
def test_ends_are_found_in_steady_passes(streams: int, steady: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny_model(vocab_size=8), [strided([2], 16, streams)] * 12
    found = made(model, batch, Sampling(temperature=4.0), eos_id=EOS)
    monkeypatch.setattr(decoder, "can_capture", lambda model: False)
    wanted = made(model, batch, Sampling(temperature=4.0), eos_id=EOS)
    assert torch.equal(found.tokens, wanted.tokens)
    assert (found.ends, found.passes) == (wanted.ends, wanted.passes)
    assert len(set(found.passes)) > 2
    assert steady


def test_single_precision(steady: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(dtype=torch.float32)
    found = made(model, BATCHES["padded"], Sampling())
    monkeypatch.setattr(decoder, "can_capture", lambda model: False)
    wanted = made(model, BATCHES["padded"], Sampling())
    assert torch.equal(found.tokens, wanted.tokens)
    assert (found.logprobs - wanted.logprobs).abs().max() < 1e-5


def test_which_passes_are_steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 4 streams over 139 places the heads, one at a time, and what is behind them but the last, shorter pass."""
    turns = torch.tensor([turns_of(strided_places(139, 4))])
    ends = lay_columns(turns).ends
    assert _rows_of_runs(ends) == [0] * 6 + [4] * 32 + [0], "the heads are too few for a capture"
    monkeypatch.setattr(graph, "LEAST", 3)
    assert _rows_of_runs(ends) == [0, 0, 1, 1, 1, 0] + [4] * 32 + [0]


class NeverWaits(TorchDispatchMode):
    """Refuses what would make the host wait for a GPU, and so what a capture refuses."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        assert func.overloadpacket not in WAITING, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("sampling", [Sampling(0), Sampling(0.7, 3, 0.9, 0.01, repetition_penalty=1.2)])
def test_nothing_in_a_steady_pass_waits_for_the_device(
    sampling: Sampling, steady: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Steady._pass

    def watched(self: Steady, place: Any) -> None:
        with NeverWaits():
            run(self, place)

    monkeypatch.setattr(Steady, "_pass", watched)
    # In inference mode operations arrive whole, and hide what they are made of.
    monkeypatch.setattr(Decoding, "step", torch.no_grad()(Decoding.step.__wrapped__))  # type: ignore[attr-defined]
    made(tiny_model(query_context="both", num_key_value_heads=1, qk_norm=True), BATCHES["padded"], sampling)
    assert steady
    with pytest.raises(AssertionError, match="waits for the device"), NeverWaits():
        bool(torch.ones(3).any())


@NO_GPU
@pytest.mark.parametrize("name", BATCHES)
def test_captured_on_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph itself, where there is a GPU: against ordinary passes on it, with ends."""
    monkeypatch.setattr(graph, "LEAST", 4)
    model = tiny_model(dtype=torch.float32).cuda()
    found = made(model, BATCHES[name], Sampling(), eos_id=EOS)
    monkeypatch.setattr(decoder, "can_capture", lambda model: False)
    wanted = made(model, BATCHES[name], Sampling(), eos_id=EOS)
    assert torch.equal(found.tokens, wanted.tokens)
    assert (found.logprobs - wanted.logprobs).abs().max() < 1e-4
    assert (found.ends, found.passes) == (wanted.ends, wanted.passes)
