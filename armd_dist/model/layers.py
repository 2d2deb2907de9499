"""The layers that the model asks for, and their plain PyTorch form.

The model names full sizes and gets modules from tensor to tensor; what a process really holds of them is the business
of whoever implements the protocol. `parallel/` implements it on Megatron-core with the same parameter names.
"""

from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from armd_dist.model.shapes import Ids, Logits, OwnHidden, Scores, Weight


@runtime_checkable
class Layers(Protocol):
    """Makes layers. Inputs and outputs named "split" hold only this process' share of the features.

    Hidden states between a row layer and the next column layer may hold only this process' rows: embeddings take the
    ids of all rows and return its own, column layers and `logits` take its own and return all, row layers the reverse.

    Give linear layers contiguous input: for strided input torch chooses the kernel, and so the rounding, by whether the
    weight requires a gradient, and a trained model would differ from its export in the last digits.
    """

    def column(self, in_size: int, out_size: int, bias: bool = False) -> nn.Module:
        """Linear, output features split."""
        ...

    def row(self, in_size: int, out_size: int, bias: bool = False) -> nn.Module:
        """Linear, input features split, output whole."""
        ...

    def whole(self, in_size: int, out_size: int) -> nn.Module:
        """Linear without bias that every process holds entirely."""
        ...

    def norm(self, size: int, eps: float, kind: str, bias: bool = False) -> nn.Module:
        """Norm of whole hidden states over the last dimension. kind: rmsnorm, which has no bias, or layernorm."""
        ...

    def head_norm(self, size: int, eps: float) -> nn.Module:
        """RMS norm of heads [..., heads of this process, size], with one weight [size] for all heads."""
        ...

    def token_embedding(self, rows: int, size: int) -> nn.Module:
        """Embedding split by rows of the vocabulary; has `.weight`, whose rows also serve as an output head."""
        ...

    def position_embedding(self, rows: int, size: int) -> nn.Module:
        """Embedding that every process holds entirely; where it has one row, that one stands at every place."""
        ...

    def own_rows(self, values: Tensor) -> Tensor:
        """This process' rows of [batch, rows]: those that its embeddings return."""
        ...

    def run(self, number: int, layer: nn.Module, *inputs: Any) -> Any:
        """What `layer` makes of the inputs; its activations are kept for the backward pass, or computed again there.

        number: of the layer in the whole network, which keys its dropout.
        """
        ...

    def logits(self, hidden: OwnHidden, weight: Weight, vocab_size: int) -> Logits:
        """Products with an embedding's rows, split by vocabulary; rows from `vocab_size` on are padding: -inf."""
        ...

    def whole_logits(self, logits: Logits) -> Tensor:
        """[rows, batch, whole vocabulary] on every process, from each one's own part. Collective; no gradient."""
        ...

    def token_nll(self, logits: Logits, targets: Ids) -> Scores:
        """-log softmax(logits)[target] in fp32. targets: [batch, rows]; returns [rows, batch]. May overwrite logits."""
        ...

    def likeliest(self, logits: Logits, targets: Ids) -> Tensor:
        """[rows, batch] whether no token is likelier than the target. targets: [batch, rows]."""
        ...

    def log_normalizer(self, logits: Logits) -> Scores:
        """log sum exp over the whole vocabulary in fp32, [rows, batch]."""
        ...


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        return F.rms_norm(hidden, (hidden.shape[-1],), self.weight, self.eps)


class Places(nn.Embedding):
    """Vectors of places, or a single one for all of them."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input if self.num_embeddings > 1 else torch.zeros_like(input))


def make_norm(size: int, eps: float, kind: str, bias: bool) -> nn.Module:
    """The norm of this kind: rmsnorm, which has no bias, or layernorm."""
    return nn.LayerNorm(size, eps, bias=bias) if kind == "layernorm" else RMSNorm(size, eps)


class Linear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return product(input, self.weight, self.bias)


LARGE = 1 << 18  # values of a weight; below it a call of oneDNN costs more than the product
# No public names of torch's, and exports meet any version of it.
ONEDNN = torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
)


def product(rows: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """rows [..., in] @ weight.T + bias, as F.linear. weight: as it is, or as `pack` reorders it.

    On a CPU in fp32, where no gradient is asked for, by oneDNN: torch has MKL do it, which was slower for every number
    of rows where it was measured (benchmarks/products.py).
    """
    if weight.is_mkldnn:
        return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    fits = rows.device.type == "cpu" and rows.dtype == weight.dtype == torch.float32 and weight.numel() >= LARGE
    fits = fits and weight.is_contiguous() and (bias is None or bias.is_contiguous())  # it reads past strides
    if fits and ONEDNN and not torch.is_grad_enabled():
        return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return F.linear(rows, weight, bias)


class PlainLayers:
    """One process holds everything. For generation, evaluation, export and as the reference in tests."""

    def column(self, in_size: int, out_size: int, bias: bool = False) -> nn.Module:
        return Linear(in_size, out_size, bias=bias)

    row = column
    whole = column

    def norm(self, size: int, eps: float, kind: str, bias: bool = False) -> nn.Module:
        return make_norm(size, eps, kind, bias)

    def head_norm(self, size: int, eps: float) -> nn.Module:
        return RMSNorm(size, eps)

    def token_embedding(self, rows: int, size: int) -> nn.Module:
        return nn.Embedding(rows, size)

    def position_embedding(self, rows: int, size: int) -> nn.Module:
        return Places(rows, size)

    def own_rows(self, values: Tensor) -> Tensor:
        return values

    def run(self, number: int, layer: nn.Module, *inputs: Any) -> Any:
        return layer(*inputs)

    def logits(self, hidden: OwnHidden, weight: Weight, vocab_size: int) -> Logits:
        return mask_padding(product(hidden, weight), first_row=0, vocab_size=vocab_size)

    def whole_logits(self, logits: Logits) -> Tensor:
        return logits

    def token_nll(self, logits: Logits, targets: Ids) -> Scores:
        return F.cross_entropy(wide(logits).movedim(-1, 1), targets.t(), reduction="none")

    def likeliest(self, logits: Logits, targets: Ids) -> Tensor:
        return logits.gather(-1, targets.t()[..., None])[..., 0] >= logits.amax(-1)

    def log_normalizer(self, logits: Logits) -> Scores:
        return wide(logits).logsumexp(-1)


def wide(logits: Logits) -> Logits:
    """At least fp32, and float64 where the exactness tests ask for it."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def mask_padding(logits: Logits, first_row: int, vocab_size: int) -> Logits:
    """Makes padded vocabulary rows impossible. `first_row`: vocabulary row of the first logit here."""
    row = torch.arange(first_row, first_row + logits.shape[-1], device=logits.device)
    return logits.masked_fill(row >= vocab_size, float("-inf")) if first_row + logits.shape[-1] > vocab_size else logits
