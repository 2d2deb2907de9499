"""Without two-stream layers the network is, left to right, an ordinary GPT: written out here switch by switch."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import BOS, VOCAB, rows_of, tiny_model

from armd_dist.model.armd import ARMD
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
        anywhere = self.config.position_embedding == "rotary"
        place = w["positions.weight"][:1] if anywhere else w["positions.weight"][1 : rows + 1]
        hidden = place + previous @ w["query_context.left.weight"].T + nothing_right
        for layer in range(self.config.num_layers):
            hidden = self.layer(hidden, f"upper.{layer}.")
        head = w["tokens.weight" if self.config.tie_embeddings else "head.weight"]
        return (self.norm(hidden, "norm.weight") @ head.T)[:, : self.config.vocab_size]

    def layer(self, hidden: Tensor, at: str) -> Tensor:
        w = self.weights
        hidden = hidden + self.attend(self.norm(hidden, at + "attention_norm.weight"), at + "attention.")
        inner = self.norm(hidden, at + "mlp_norm.weight") @ w[at + "mlp.up.weight"].T
        if self.config.activation == "swiglu":
            inner = inner[:, 0::2] * inner[:, 1::2] / (1 + (-inner[:, 1::2]).exp())
        else:
            inner = 0.5 * inner * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        return hidden + inner @ w[at + "mlp.down.weight"].T

    def attend(self, normed: Tensor, at: str) -> Tensor:
        w, width, heads = self.weights, self.config.head_dim, self.config.num_attention_heads
        assert self.config.num_key_value_heads is not None
        query = normed @ w[at + "query.weight"].T
        both = normed @ w[at + "key_value.weight"].T
        mixed = []
        for head in range(heads):
            shared = head // (heads // self.config.num_key_value_heads)
            q = self.placed(query[:, head * width : (head + 1) * width], at + "query_norm.weight")
            k = self.placed(both[:, 2 * shared * width : (2 * shared + 1) * width], at + "key_norm.weight")
            v = both[:, (2 * shared + 1) * width : (2 * shared + 2) * width]
            scores = (q @ k.T / math.sqrt(width)).masked_fill(torch.ones(len(q), len(q)).triu(1).bool(), -math.inf)
            mixed.append(scores.softmax(-1) @ v)
        return torch.cat(mixed, -1) @ w[at + "out.weight"].T

    def placed(self, head: Tensor, norm: str) -> Tensor:
        if self.config.qk_norm:
            head = self.rms(head) * self.weights[norm]
        return head if self.config.position_embedding == "learned" else self.rotate(head)

    def norm(self, hidden: Tensor, name: str) -> Tensor:
        if self.config.normalization == "layernorm":
            centred = hidden - hidden.mean(-1, keepdim=True)
            return self.rms(centred) * self.weights[name]
        return self.rms(hidden) * self.weights[name]

    def rms(self, rows: Tensor) -> Tensor:
        return rows / (rows.square().mean(-1, keepdim=True) + self.config.norm_eps).sqrt()

    def rotate(self, rows: Tensor) -> Tensor:
        """Pair (i, i + width / 2) as a complex number, turned by place x theta^(-2i / width)."""
        half = rows.shape[1] // 2
        frequency = self.config.rope_theta ** (-torch.arange(half, dtype=rows.dtype) / half)
        turn = torch.polar(torch.ones(len(rows), half, dtype=rows.dtype), torch.arange(len(rows))[:, None] * frequency)
        turned = torch.complex(rows[:, :half], rows[:, half:]) * turn
        return torch.cat((turned.real, turned.imag), -1)


SWITCHES: dict[str, dict[str, Any]] = {
    "default": {},
    "tied": {"tie_embeddings": True},
    "grouped": {"num_attention_heads": 4, "num_key_value_heads": 2},
    "qk_norm": {"qk_norm": True},
    "swiglu": {"activation": "swiglu"},
    "layernorm": {"normalization": "layernorm"},
    "learned": {"position_embedding": "learned"},
    "rotary": {"position_embedding": "rotary"},
    "all": {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "qk_norm": True,
        "activation": "swiglu",
        "normalization": "layernorm",
        "position_embedding": "rotary",
        "tie_embeddings": True,
    },
}


@pytest.mark.parametrize("name", SWITCHES)
def test_without_two_stream_layers_it_is_an_ordinary_gpt(name: str) -> None:
    model = tiny_model(two_stream_layers=0, **SWITCHES[name])
    rows = rows_of(left_to_right(10), batch=2)
    inputs = torch.cat((torch.full((2, 1), BOS), rows.ids), dim=1)
    gpt = torch.stack([PlainGPT(model).logits(text) for text in inputs])
    ours = model(rows.layout()).transpose(0, 1)[..., :VOCAB]
    torch.testing.assert_close(ours, gpt[:, :-1], rtol=0, atol=1e-10)
    # The usual loss: row i against token i + 1.
    shifted = torch.nn.functional.cross_entropy(gpt[:, :-1].flatten(0, 1), inputs[:, 1:].flatten())
    assert rows.loss(model).item() == pytest.approx(shifted.item(), abs=1e-10)


def test_default_parameter_names_are_kept() -> None:
    """Checkpoints are read by these names."""
    names = {name.split(".", 2)[-1] for name, _ in tiny_model().named_parameters() if name.startswith("upper.")}
    assert names == {
        "attention_norm.weight",
        "attention.query.weight",
        "attention.key_value.weight",
        "attention.out.weight",
        "mlp_norm.weight",
        "mlp.up.weight",
        "mlp.down.weight",
    }
    others = {name for name, _ in tiny_model().named_parameters() if not name.startswith(("upper.", "two_stream."))}
    context = {f"query_context.{name}.weight" for name in ("left", "right", "distance")}
    assert others == {"tokens.weight", "positions.weight", "norm.weight", "head.weight", *context}
