"""Weights in the order in which oneDNN reads them, for a model on a CPU that will only be read from then on."""

import torch
from torch import Tensor, nn

from armd_dist.model.language_model import LanguageModel
from armd_dist.model.layers import LARGE, ONEDNN, Linear
from armd_dist.model.shapes import Weight

ROWS = 64  # the order for one row is another, and slower for two and more; this one serves any number


def pack(model: LanguageModel) -> None:
    """Reorders large weights in place, where that helps: in fp32 on a CPU. For `PlainLayers`.

    Nothing can be saved from the model or trained in it any more, nor can it be moved. A decoder's pass, which has few
    rows, then reads weights at the speed of memory; all rows get what they got before, but for the rounding of single
    ones. A tied head gets a copy of the embedding, whose rows are looked up in their own order.
    """
    if not ONEDNN:
        return
    for module in model.modules():
        if isinstance(module, Linear) and _fits(module.weight):
            module.weight = nn.Parameter(packed(module.weight), requires_grad=False)
    head = model.head_weight
    if _fits(head):
        model.packed_head = packed(head)
        if not model.config.tie_embeddings:
            model.head.weight = nn.Parameter(model.packed_head, requires_grad=False)


def _fits(weight: Weight) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() >= LARGE


def packed(weight: Weight) -> Tensor:
    """The weight as `product` also takes it, faster."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)
