"""Which stage of the network each pipeline-parallel process holds."""

from functools import lru_cache

from armd_dist.model.cost import flops_by_layers
from armd_dist.model.stages import Stage, fair_cuts
from armd_dist.run import Run


def stages_of(run: Run) -> list[Stage]:
    """All stages from the bottom, cut by FLOPs. Stage i is with pipeline rank i modulo `parallel.pipeline`."""
    return list(_cut(tuple(stage_costs(run)), run.parallel.pipeline * run.parallel.virtual_pipeline))


@lru_cache(maxsize=64)
def _cut(costs: tuple[float, ...], stages: int) -> tuple[Stage, ...]:
    """Remembered, for `armd plan` tries many settings that are cut alike."""
    return tuple(fair_cuts(list(costs), stages))


def stage_costs(run: Run) -> list[float]:
    """FLOPs of each layer's forward pass over one sequence, by which stages are cut."""
    window = run.orders.block_length if run.model.network == "denoiser" else None
    return [float(cost) for cost in flops_by_layers(run.model, run.data.sequence_length, window)]


def streams_into(run: Run, layer: int) -> int:
    """Streams of rows that this layer reads: both in ARMD's lower half."""
    assert run.model.two_stream_layers is not None, "ModelConfig fills it"
    return 2 if run.model.network == "armd" and layer < run.model.two_stream_layers else 1
