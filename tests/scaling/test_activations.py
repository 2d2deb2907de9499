"""What a micro-batch keeps by formula is what autograd keeps, layer by layer."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from alive import Alive
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint
from toys import BOS, CONTEXTS, Rows, rows_of

from armd_dist.model.armd import ARMD
from armd_dist.model.denoiser import Denoiser, lay_out_masked
from armd_dist.model.layers import PlainLayers
from armd_dist.model.layout import Layout
from armd_dist.model.learned_order import LearnedOrderDenoiser
from armd_dist.objectives.learned_order import hide_twice, lay_out_known
from armd_dist.orders.schemes import left_to_right
from armd_dist.parallel.recompute import keep_no_cheap_results
from armd_dist.run import Run
from armd_dist.scaling.activations import (
    kept_by_embedding,
    kept_by_head,
    kept_by_layers,
    kept_by_order_heads,
    logits_peak,
)

TOLERANCE = 0.03
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SWITCHES: dict[str, dict[str, Any]] = {
    "default": {},
    "layernorm": {"normalization": "layernorm"},
    "bias": {"normalization": "layernorm", "bias": True},
    "swiglu": {"activation": "swiglu"},
    "qk_norm": {"qk_norm": True},
    "grouped": {"num_key_value_heads": 2},
    "grouped_qk_norm": {"num_key_value_heads": 2, "qk_norm": True},
    "learned": {"position_embedding": "learned"},
    "learned_qk_norm": {"position_embedding": "learned", "qk_norm": True},
    "dropout": {"hidden_dropout": 0.1},
    "one_of_two_streams": {"two_stream_layers": 1},
    "all_of_two_streams": {"two_stream_layers": 5},
    "no_layer_of_two_streams": {"two_stream_layers": 0},
}
Runs = Callable[..., Run]


class FusedNorm(Function):
    """CUDA's RMS norm: it keeps its input and one fp32 number a row, where the CPU's keeps two fp32 copies."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = (hidden.float().square().mean(-1, keepdim=True) + eps).rsqrt()
        ctx.save_for_backward(hidden, weight, scale)
        return (hidden * scale).to(hidden.dtype) * weight


@pytest.fixture
def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms and dropout keep what their fused kernels keep."""
    monkeypatch.setattr(F, "rms_norm", lambda hidden, _, weight, eps: FusedNorm.apply(hidden, weight, eps))
    monkeypatch.setattr(
        nn.Dropout, "forward", lambda self, x: torch.native_dropout(x, self.p, True)[0] if self.p else x
    )


class ShareOfLayers(PlainLayers):
    """What one of two tensor-parallel processes holds, with nobody to talk to."""

    def column(self, in_size: int, out_size: int, bias: bool = False) -> nn.Module:
        return nn.Linear(in_size, out_size // 2, bias=bias)

    def row(self, in_size: int, out_size: int, bias: bool = False) -> nn.Module:
        return nn.Linear(in_size // 2, out_size, bias=bias)


def kept(model: nn.Module, compute: Callable[[], Any], apart: Any = ()) -> tuple[int, Any]:
    """Bytes that autograd saves, each storage once, parameters and the storages of `apart` left out; and the result."""
    storages = {tensor.untyped_storage().data_ptr(): 0 for tensor in (*model.parameters(), *apart)}
    alive = []

    def pack(tensor: Tensor) -> Tensor:
        alive.append(tensor)  # or its address might be used again
        storages.setdefault(tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = compute()
    return sum(storages.values()), result


def network(run: Run, layers: PlainLayers | None = None) -> tuple[Any, Rows]:
    model = ARMD(run.model, layers or PlainLayers())
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    rows = rows_of(left_to_right(64), batch=run.training.micro_batch_size, vocab=200)
    return model.to(DTYPES[run.training.precision]), rows


def measured_layers(model: Any, layout: Layout) -> list[int]:
    """Each layer on what the one before made of it. Rotary angles are made once for all, and counted elsewhere."""
    content, query = (stream.detach().requires_grad_() for stream in model.embed(layout))
    see, angles = layout.visibility, model.rotations(layout, query)
    pairs = (angles.content, angles.query, angles.joint)
    apart = [part for pair in pairs if pair is not None for part in pair]
    found = []
    for layer in model.two_stream.values():
        size, (content, query) = kept(model, partial(layer, content, query, see, angles, None), apart)
        found.append(size)
    for layer in model.upper.values():
        size, query = kept(model, partial(layer, query, see, angles, None), apart)
        found.append(size)
    return found


@pytest.mark.usefixtures("as_on_cuda")
@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("name", SWITCHES)
def test_every_layer(name: str, precision: str, run_with: Runs) -> None:
    run = run_with(model=SWITCHES[name], training={"precision": precision})
    model, rows = network(run)
    expected = [layer.kept for layer in kept_by_layers(run)]
    assert measured_layers(model, rows.layout()) == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.usefixtures("as_on_cuda")
@pytest.mark.parametrize("name", SWITCHES)
def test_share_of_one_of_two_processes(name: str, run_with: Runs) -> None:
    run = run_with(model=SWITCHES[name], parallel={"tensor": 2})
    model, rows = network(run, ShareOfLayers())
    expected = [layer.kept for layer in kept_by_layers(run)]
    assert measured_layers(model, rows.layout()) == pytest.approx(expected, rel=TOLERANCE)


def test_recomputed_layers_keep_their_inputs(run_with: Runs) -> None:
    run = run_with(training={"precision": "fp32"}, model={"hidden_dropout": 0.1})
    model, rows = network(run)
    layout = rows.layout()
    content, query = (stream.detach().requires_grad_() for stream in model.embed(layout))
    angles, found = model.rotations(layout, query), []
    again = partial(checkpoint, use_reentrant=False)
    for layer in model.two_stream.values():
        size, (content, query) = kept(model, partial(again, layer, content, query, layout.visibility, angles, None))
        found.append(size)
    for layer in model.upper.values():
        size, query = kept(model, partial(again, layer, query, layout.visibility, angles, None))
        found.append(size)
    assert found == pytest.approx([layer.boundary for layer in kept_by_layers(run)], rel=TOLERANCE)


@pytest.mark.usefixtures("as_on_cuda")
@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("name", SWITCHES)
def test_selective_layers_keep_no_cheap_results(name: str, precision: str, run_with: Runs) -> None:
    """Storages that outlive the pass, for what a hook would see may itself be computed again."""
    run = run_with(model=SWITCHES[name], training={"precision": precision})
    model, rows = network(run)
    layout, found = rows.layout(), []
    content, query = (stream.detach().requires_grad_() for stream in model.embed(layout))
    angles = model.rotations(layout, query)
    turns = [part for pair in (angles.content, angles.query, angles.joint) if pair is not None for part in pair]
    for layer in (*model.two_stream.values(), *model.upper.values()):
        lower = layer in model.two_stream.values()
        inputs = [content, query] if lower else [query]
        apart = [content, query, *model.parameters(), *turns]
        with Alive() as alive:
            made = keep_no_cheap_results(layer, *inputs, layout.visibility, angles, None)
        content, query = made if lower else (content, made)
        # Both streams are joined into a tensor of the layer's own; otherwise it keeps what it was given.
        given = [] if lower and not layer.drops_content else inputs
        found.append(alive.bytes([content, query, *apart]) + sum(tensor.nbytes for tensor in given))
    assert found == pytest.approx([layer.selective for layer in kept_by_layers(run)], rel=TOLERANCE)


@pytest.mark.parametrize("precision", DTYPES)
def test_norms_of_the_cpu_keep_two_more_copies(precision: str, run_with: Runs) -> None:
    """Nothing is replaced here: what the CPU keeps beyond the plan is the norms' input and result in fp32."""
    run = run_with(training={"precision": precision})
    model, rows = network(run)
    stream = 4 * run.training.micro_batch_size * 64 * run.model.hidden_size
    size = stream if precision == "fp32" else stream // 2
    # In fp32 the input itself is kept, in bf16 an fp32 copy in its place.
    copies = 2 * stream - size
    normed = [4, 4, 3, 2, 2]  # streams that go through the norms of a layer
    expected = [layer.kept + count * copies for layer, count in zip(kept_by_layers(run), normed, strict=True)]
    assert measured_layers(model, rows.layout()) == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.usefixtures("as_on_cuda")
@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("context", CONTEXTS)
def test_embedding(context: str, dropout: float, precision: str, run_with: Runs) -> None:
    model = {"query_context": context, "position_embedding": "learned", "hidden_dropout": dropout}
    run = run_with(model=model, training={"precision": precision})
    plain, rows = network(run)
    found, _ = kept(plain, partial(plain.embed, rows.layout()))
    assert found == pytest.approx(kept_by_embedding(run), rel=0.1, abs=512)


def test_rotary_angles(run_with: Runs) -> None:
    run = run_with()
    model, rows = network(run)
    angles = model.rotations(rows.layout(), torch.zeros(64, 2, 64, dtype=torch.bfloat16))
    size = sum(part.nbytes for pair in (angles.content, angles.query, angles.joint) for part in pair)
    learned = run_with(model={"position_embedding": "learned"})
    assert size == kept_by_embedding(run) - kept_by_embedding(learned)


@pytest.mark.usefixtures("as_on_cuda")
def test_head_without_its_logits(run_with: Runs) -> None:
    run = run_with()
    model, _ = network(run)
    query = torch.randn(64, run.training.micro_batch_size, 64, dtype=torch.bfloat16, requires_grad=True)
    found, logits = kept(model, partial(model.predict, query))
    assert found == pytest.approx(kept_by_head(run), rel=TOLERANCE)
    assert logits.nbytes == logits_peak(run) // 3, "2 bytes of 6: the fp32 copy has the rest"


@pytest.mark.usefixtures("as_on_cuda")
@pytest.mark.parametrize("attention", ["across_documents", "within_document"])
@pytest.mark.parametrize("window", [None, 16])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_denoiser(window: int | None, dropout: float, attention: str, run_with: Runs) -> None:
    model = {"network": "denoiser", "hidden_dropout": dropout}
    run = run_with(model=model, orders={"block_length": window}, data={"attention": attention})
    model = Denoiser(run.model, PlainLayers()).to(torch.bfloat16)
    rows = rows_of(left_to_right(64), batch=run.training.micro_batch_size, vocab=200)
    before = (torch.arange(64) // 20 * 20).expand(2, -1) if run.data.within_document else None
    layout = lay_out_masked(rows.ids, torch.arange(64).expand(2, -1) % 3 == 0, window or 64, BOS, before)
    found, _ = kept(model, partial(model, layout))
    expected = sum(layer.kept for layer in kept_by_layers(run)) + kept_by_embedding(run) + kept_by_head(run)
    assert found == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.usefixtures("as_on_cuda")
@pytest.mark.parametrize("name", ["default", "dropout", "learned", "bias"])
def test_learned_order(name: str, run_with: Runs) -> None:
    run = run_with(model=SWITCHES[name] | {"network": "denoiser", "learned_order": True})
    model = LearnedOrderDenoiser(run.model, PlainLayers()).to(torch.bfloat16)
    text = lay_out_known(rows_of(left_to_right(64), batch=run.training.micro_batch_size, vocab=200).ids, BOS)
    twice = hide_twice(text, torch.arange(64).expand(2 * run.training.micro_batch_size, -1) % 3 == 0)
    found, _ = kept(model, lambda: (model.order_of_text(text), model.read(twice)))
    expected = sum(layer.kept for layer in (*kept_by_layers(run), *kept_by_order_heads(run)))
    assert found == pytest.approx(expected + kept_by_embedding(run) + kept_by_head(run), rel=TOLERANCE)
