"""What the network computes, and what it leaves out."""

import math

import pytest
import torch
from torch import Tensor
from toys import BOS, CONTEXTS, VOCAB, rows_of, scheme, tiny_config, tiny_model

from armd_dist.model.armd import ARMD
from armd_dist.model.layers import PlainLayers
from armd_dist.objectives.likelihood import likelihood_loss
from armd_dist.orders.schemes import left_to_right


class PlainGPT:
    """A causal transformer in a few lines, one text at a time, from the weights of an ARMD without two-stream layers.

    Reads [BOS, x_1, ..., x_n] and, as usual, row i predicts token i + 1.
    """

    def __init__(self, model: ARMD) -> None:
        self.weights = {name: value.detach() for name, value in model.named_parameters()}
        self.config = model.config

    def logits(self, ids: Tensor) -> Tensor:
        w, rows = self.weights, len(ids)
        nothing_right = w["query_context.right.weight"] @ w["query_context.distance.weight"][0]
        previous = w["tokens.weight"][ids] + w["query_context.distance.weight"][1]
        hidden = w["positions.weight"][1 : rows + 1] + previous @ w["query_context.left.weight"].T + nothing_right
        for layer in range(self.config.num_layers):
            hidden = self.layer(hidden, f"upper.{layer}.")
        return (self.norm(hidden, "norm.weight") @ w["head.weight"].T)[:, : self.config.vocab_size]

    def layer(self, hidden: Tensor, at: str) -> Tensor:
        w, width, heads = self.weights, self.config.head_dim, self.config.num_attention_heads
        normed = self.norm(hidden, at + "attention_norm.weight")
        query = normed @ w[at + "attention.query.weight"].T
        both = normed @ w[at + "attention.key_value.weight"].T
        mixed = []
        for head in range(heads):
            q = self.rotate(query[:, head * width : (head + 1) * width])
            k = self.rotate(both[:, 2 * head * width : (2 * head + 1) * width])
            v = both[:, (2 * head + 1) * width : (2 * head + 2) * width]
            scores = (q @ k.T / math.sqrt(width)).masked_fill(torch.ones(len(q), len(q)).triu(1).bool(), -math.inf)
            mixed.append(scores.softmax(-1) @ v)
        hidden = hidden + torch.cat(mixed, -1) @ w[at + "attention.out.weight"].T
        inner = self.norm(hidden, at + "mlp_norm.weight") @ w[at + "mlp.up.weight"].T
        inner = 0.5 * inner * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        return hidden + inner @ w[at + "mlp.down.weight"].T

    def norm(self, hidden: Tensor, name: str) -> Tensor:
        return hidden / (hidden.square().mean(-1, keepdim=True) + self.config.norm_eps).sqrt() * self.weights[name]

    def rotate(self, rows: Tensor) -> Tensor:
        """Pair (i, i + width / 2) as a complex number, turned by place x theta^(-2i / width)."""
        half = rows.shape[1] // 2
        frequency = self.config.rope_theta ** (-torch.arange(half, dtype=rows.dtype) / half)
        turn = torch.polar(torch.ones(len(rows), half, dtype=rows.dtype), torch.arange(len(rows))[:, None] * frequency)
        turned = torch.complex(rows[:, :half], rows[:, half:]) * turn
        return torch.cat((turned.real, turned.imag), -1)


def test_without_two_stream_layers_it_is_an_ordinary_gpt() -> None:
    model = tiny_model(two_stream_layers=0)
    rows = rows_of(left_to_right(10), batch=2)
    inputs = torch.cat((torch.full((2, 1), BOS), rows.ids), dim=1)
    gpt = torch.stack([PlainGPT(model).logits(text) for text in inputs])
    ours = model(rows.layout()).transpose(0, 1)[..., :VOCAB]
    torch.testing.assert_close(ours, gpt[:, :-1], rtol=0, atol=1e-10)
    # The usual loss: row i against token i + 1.
    shifted = torch.nn.functional.cross_entropy(gpt[:, :-1].flatten(0, 1), inputs[:, 1:].flatten())
    assert likelihood_loss(model, rows.layout(), rows.ids).item() == pytest.approx(shifted.item(), abs=1e-10)


@pytest.mark.parametrize("name", ["any_order", "strided_4_ragged"])
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("two_stream", [1, 2, 4])
def test_content_behind_the_last_two_stream_layer_is_dropped(two_stream: int, context: str, name: str) -> None:
    """There the MLP sees query rows alone, and computing the content's too would change no logit."""
    model, rows = tiny_model(query_context=context, two_stream_layers=two_stream), rows_of(scheme(name), batch=2)
    seen: list[int] = []
    for layer in [*model.two_stream, *model.upper]:
        layer.mlp.up.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].shape[0] * inputs[0].shape[1]))
    before = model(rows.layout())
    count = rows.ids.numel()
    assert seen == [2 * count] * (two_stream - 1) + [count] * (4 - two_stream + 1)
    assert [layer.drops_content for layer in model.two_stream] == [False] * (two_stream - 1) + [True]
    model.two_stream[-1].drops_content = False
    torch.testing.assert_close(model(rows.layout()), before, rtol=0, atol=1e-12)


@pytest.mark.parametrize("context", CONTEXTS)
def test_every_parameter_is_trained(context: str) -> None:
    """Blocks of one token and more: no weight of any layer is idle."""
    model = tiny_model(query_context=context)
    rows = rows_of(scheme("strided_4_ragged"), batch=4)
    likelihood_loss(model, rows.layout(), rows.ids).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_padding_of_the_vocabulary_is_impossible_and_untouched() -> None:
    model, rows = tiny_model(), rows_of(scheme("any_order"))
    logits = model(rows.layout())
    assert logits.shape[-1] == 48
    assert (logits[..., VOCAB:] == -math.inf).all()
    likelihood_loss(model, rows.layout(), rows.ids).backward()
    assert torch.isfinite(model.head.weight.grad).all()
    assert (model.head.weight.grad[VOCAB:] == 0).all()


def test_tied_head() -> None:
    model = tiny_model(tie_embeddings=True)
    assert not hasattr(model, "head")
    rows = rows_of(scheme("any_order"))
    query = torch.randn(3, 1, 16, dtype=torch.float64)
    expected = model.norm(query) @ model.tokens.weight.T
    torch.testing.assert_close(model.predict(query)[..., :VOCAB], expected[..., :VOCAB])
    assert torch.isfinite(likelihood_loss(model, rows.layout(), rows.ids))


@pytest.mark.parametrize("two_stream", [0, 2, 4])
def test_size_does_not_depend_on_how_many_layers_carry_two_streams(two_stream: int) -> None:
    """Both streams share one set of weights."""
    sizes = [
        sum(p.numel() for p in ARMD(tiny_config(two_stream_layers=n), PlainLayers()).parameters())
        for n in (1, two_stream)
    ]
    assert sizes[0] == sizes[1]


def test_derived_defaults_are_written() -> None:
    config = tiny_config(ffn_hidden_size=None, two_stream_layers=None)
    assert (config.ffn_hidden_size, config.two_stream_layers, config.head_dim) == (64, 2, 8)
    assert config.padded_vocab_size == 48
