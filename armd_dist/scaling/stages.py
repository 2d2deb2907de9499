"""What each pipeline-parallel process holds, and what waiting for each other costs the stages."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from armd_dist.model.stages import Stage, equal_cuts
from armd_dist.parallel.stages import stage_costs, stages_of
from armd_dist.run import Run
from armd_dist.scaling.memory import accumulation_steps, memories_of, parameters_of, stages_at

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class StageRow:
    """One pipeline rank. first_rank to last_rank hold the same layers; layers: [first, last] of each of its stages,
    from 1; parameters: of one process; flops_share: of the forward pass; memory: bytes at once on one process."""

    pipeline_rank: int
    first_rank: int
    last_rank: int
    layers: list[tuple[int, int]]
    parameters: int
    flops_share: float
    memory: int


@dataclass(frozen=True)
class Waiting:
    """bubble: idle share beside the ideal time; imbalance: dearest stage over the mean; equal_imbalance: if every stage
    had as many layers."""

    bubble: float
    imbalance: float
    equal_imbalance: float

    @property
    def slowdown(self) -> float:
        """Time of a step over that of the same work without waiting."""
        return (1 + self.bubble) * self.imbalance


def waiting_of(run: Run, data_size: int) -> Waiting:
    """The bubble is (P - 1) / (m v) of P stages, m micro-batches and v virtual stages (Narayanan et al. 2021, 2.2)."""
    parallel = run.parallel
    micro_batches = accumulation_steps(run, data_size)
    count = parallel.pipeline * parallel.virtual_pipeline
    return Waiting(
        (parallel.pipeline - 1) / (micro_batches * parallel.virtual_pipeline),
        _imbalance(run, stages_of(run)),
        _imbalance(run, equal_cuts(run.model.num_layers, count)),
    )


def _imbalance(run: Run, stages: list[Stage]) -> float:
    layers = stage_costs(run)
    costs = [sum(layers[stage.first : stage.last]) for stage in stages]
    return max(costs) / (sum(costs) / len(costs))


def stage_rows(run: Run, world_size: int) -> list[StageRow]:
    """By pipeline rank, for a run whose settings have been checked for `world_size` processes."""
    parallel, costs, rows = run.parallel, stage_costs(run), []
    block = world_size // parallel.pipeline
    for rank, memory in enumerate(memories_of(run, block // parallel.tensor)):
        mine = stages_at(run, rank)
        rows.append(
            StageRow(
                pipeline_rank=rank,
                first_rank=rank * block,
                last_rank=(rank + 1) * block - 1,
                layers=[(stage.first + 1, stage.last) for stage in mine],
                parameters=parameters_of(run.model, parallel.tensor, mine),
                flops_share=sum(sum(costs[stage.first : stage.last]) for stage in mine) / sum(costs),
                memory=memory.total,
            )
        )
    return rows


def stage_table(run: Run, world_size: int) -> "Table":
    """`stage_rows` to print. The memory is by formula, as on a GPU."""
    from armd_dist.tables import plain_table

    table = plain_table(title="Stages")
    for name in ("pipeline rank", "ranks", "layers", "parameters of a process", "FLOPs", "GB of a GPU, planned"):
        table.add_column(name, justify="right")
    for row in stage_rows(run, world_size):
        table.add_row(
            str(row.pipeline_rank),
            _span(row.first_rank, row.last_rank),
            ", ".join(_span(*layers) for layers in row.layers),
            f"{row.parameters:,}",
            f"{row.flops_share:.1%}",
            f"{row.memory / 1e9:,.2f}",
        )
    return table


def print_stages(run: Run, world_size: int) -> None:
    """Says on stderr how a job of several processes is divided. Every process may call it; that of RANK=0 speaks."""
    if world_size > 1 and os.environ.get("RANK") == "0":
        from rich.console import Console

        Console(stderr=True).print(stage_table(run, world_size))


def _span(first: int, last: int) -> str:
    return f"{first}-{last}" if last > first else str(first)
