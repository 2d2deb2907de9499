"""Measures leaks of a model that is split over two processes, for test_leak.py. Started on ranks.

Writes one object for each case: what tokens move that they must not (by gradient, by intervention), the share of
visible tokens that move nothing, and how far the logits are from those of the whole model on one process.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from checks import blindness, influence_by_intervention, leak, logits_of
from megatron.core.tensor_parallel import reduce_from_tensor_model_parallel_region
from torch import Tensor, nn
from toys import SCHEMES, Rows, rows_of, scheme, tiny_config, tiny_model

from armd_dist.model import visibility
from armd_dist.model.armd import ARMD
from armd_dist.model.layout import Layout
from armd_dist.parallel.config import ParallelConfig
from armd_dist.parallel.layers import MegatronLayers
from armd_dist.parallel.sharding import split_dim
from armd_dist.parallel.topology import Topology, start, stop

PROCESSES = 2
TWO_STREAM = (1, 2, 4)
PLANTED = "strided_4_ragged"


class Gathered(nn.Module):
    """A split model whose logits every process sees whole: the checks then read it as any other model."""

    def __init__(self, split: ARMD) -> None:
        super().__init__()
        self.split = split
        self.config = split.config

    def forward(self, layout: Layout) -> Tensor:
        logits = self.split(layout)
        before = dist.get_rank() * logits.shape[-1]
        after = (PROCESSES - 1) * logits.shape[-1] - before
        # A sum of parts beside zeros: Megatron's gather works on GPUs only.
        return reduce_from_tensor_model_parallel_region(nn.functional.pad(logits, (before, after)))


def split_model(whole: ARMD, topology: Topology) -> Gathered:
    """The same weights, each process holding its part."""
    model = ARMD(whole.config, MegatronLayers(ParallelConfig.model_validate({}))).to(torch.float64)
    values = dict(whole.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            dim = split_dim(parameter)
            value = values[name] if dim is None else values[name].chunk(PROCESSES, dim)[topology.tensor_rank]
            parameter.copy_(value)
    return Gathered(model)


def influence_by_gradient(model: Gathered, rows: Rows) -> Tensor:
    """As in checks.py; the embedding is split by vocabulary, so a token's gradient may be with the other process."""
    logits = logits_of(model, rows)[0]  # type: ignore[arg-type]
    direction = torch.randn(logits.shape[-1], generator=torch.Generator().manual_seed(0), dtype=logits.dtype)
    weight = model.split.tokens.get_parameter("weight")
    mine = torch.stack([torch.autograd.grad(row @ direction, weight, retain_graph=True)[0] for row in logits])
    parts = [torch.empty_like(mine) for _ in range(PROCESSES)]
    dist.all_gather(parts, mine)
    return torch.cat(parts, dim=1)[:, rows.ids[0]].abs().amax(-1)


def measure(name: str, layers: int, topology: Topology) -> dict[str, Any]:
    whole, rows = tiny_model(two_stream_layers=layers), rows_of(scheme(name), distinct=True)
    model = split_model(whole, topology)
    gradient, intervention = influence_by_gradient(model, rows), influence_by_intervention(model, rows)  # type: ignore[arg-type]
    return {
        "scheme": name,
        "two_stream_layers": layers,
        "gradient": leak(gradient, rows),
        "intervention": leak(intervention, rows),
        "blindness": max(blindness(gradient, rows), blindness(intervention, rows)),
        "apart": (logits_of(model, rows) - logits_of(whole, rows)).abs().max().item(),  # type: ignore[arg-type]
    }


def main(out: Path) -> None:
    topology = start(ParallelConfig.model_validate({"tensor": PROCESSES}))
    rows_of_vocabulary = tiny_config().padded_vocab_size // PROCESSES
    assert split_model(tiny_model(), topology).split.tokens.get_parameter("weight").shape[0] == rows_of_vocabulary
    found = {"sound": [measure(name, layers, topology) for name in SCHEMES for layers in TWO_STREAM]}
    visibility.earlier = visibility.not_later  # the planted bug: <= for < in M_sc
    found["planted"] = [measure(PLANTED, layers, topology) for layers in TWO_STREAM]
    if topology.is_main:
        out.write_text(json.dumps(found))
    stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
