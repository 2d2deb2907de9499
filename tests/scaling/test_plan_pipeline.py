"""`armd plan` for pipelines: what each rank holds, keeps, sends and waits for, against counts by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_memory import SWITCHES, Half
from typer.testing import CliRunner

from armd_dist.cli.main import app
from armd_dist.model.layers import PlainLayers
from armd_dist.model.network import make_network
from armd_dist.parallel.stages import stage_costs, stages_of, streams_into
from armd_dist.run import Run
from armd_dist.scaling.communication import communication_of
from armd_dist.scaling.hardware import GPU, GPUS
from armd_dist.scaling.memory import memories_of, memory_of, parameters_of, stages_at
from armd_dist.scaling.plan import changed, make_plan
from armd_dist.scaling.stages import stage_rows, waiting_of

CONFIGS = Path(__file__).parents[2] / "configs"
Runs = Callable[..., Run]


def piped(run_with: Runs, size: int, virtual: int = 1, **changes: dict[str, Any]) -> Run:
    parallel = {"pipeline": size, "virtual_pipeline": virtual, **changes.pop("parallel", {})}
    training = {"global_batch_size": 16, **changes.pop("training", {})}
    return run_with(parallel=parallel, training=training, **changes)


@pytest.mark.parametrize("layers", [PlainLayers, Half])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", [name for name in SWITCHES if name != "learned_order"])  # which has one stage alone
def test_parameters_of_every_rank(name: str, tied: bool, layers: type[PlainLayers], run_with: Runs) -> None:
    run = piped(run_with, 2, virtual=2, model={**SWITCHES[name], "tie_embeddings": tied})
    for rank in range(2):
        made = [make_network(run.model, layers(), stage) for stage in stages_at(run, rank)]
        held = sum(parameter.numel() for network in made for parameter in network.parameters())
        assert parameters_of(run.model, 1 if layers is PlainLayers else 2, stages_at(run, rank)) == held


@pytest.mark.parametrize(
    ("size", "virtual", "data", "passes"),
    [
        (4, 1, 1, [4, 3, 2, 1]),
        (4, 1, 4, [2, 2, 2, 1]),  # two micro-batches alone
        (2, 2, 1, [5, 3]),  # 2 (P - p - 1) + (v - 1) P + 1 of half the layers
        (2, 2, 4, [4, 3]),  # two micro-batches of two stages
    ],
)
def test_micro_batches_at_once(size: int, virtual: int, data: int, passes: list[int], run_with: Runs) -> None:
    memories = memories_of(piped(run_with, size, virtual), data)
    assert [memory.micro_batches * virtual for memory in memories] == passes
    for memory, count in zip(memories, passes, strict=True):
        kept = sum(layer.kept for layer in memory.layers) + memory.embedding
        # The interleaved schedule keeps what stages hand on: two streams of 2 x 64 rows of 64 numbers in bf16.
        handed_on = count * 2 * 2 * 64 * 64 * 2 if virtual > 1 else 0
        assert memory.activations == pytest.approx(count * kept / virtual + handed_on + memory.head, abs=1)


def test_every_rank_recomputes_as_it_is_told(run_with: Runs) -> None:
    by_rank = memories_of(piped(run_with, 2, parallel={"recompute": ["full", "selective"]}), 1)
    for rank, word in enumerate(("full", "selective")):
        alike = memories_of(piped(run_with, 2, parallel={"recompute": word}), 1)
        assert by_rank[rank] == alike[rank]
    none, selective, full = (
        memories_of(piped(run_with, 2, parallel={"recompute": word}), 1)[0].activations
        for word in ("none", "selective", "full")
    )
    assert full < selective < none


def test_logits_are_with_the_last_stage_and_layers_with_one(run_with: Runs) -> None:
    run = piped(run_with, 2)
    first, last = memories_of(run, 1)
    whole = memory_of(run_with(), 1)
    assert first.logits == first.head == 0
    assert (last.logits, last.head) == (whole.logits, whole.head)
    assert first.layers + last.layers == whole.layers


def test_waiting_by_hand(run_with: Runs) -> None:
    run = piped(run_with, 2, virtual=2)
    waiting = waiting_of(run, 2)
    assert waiting.bubble == pytest.approx(1 / (4 * 2))
    costs = stage_costs(run)
    cut = [sum(costs[stage.first : stage.last]) for stage in stages_of(run)]
    assert waiting.imbalance == pytest.approx(4 * max(cut) / sum(costs))
    equal = [costs[0] + costs[1], costs[2], costs[3], costs[4]]
    assert waiting.equal_imbalance == pytest.approx(4 * max(equal) / sum(costs))
    alone = make_plan(piped(run_with, 1), 4, GPUS["h100"])
    made = make_plan(run, 4, GPUS["h100"])
    assert made.data_size == 2
    assert alone.waiting.slowdown == 1
    assert made.step_seconds == pytest.approx(alone.step_seconds * 1.125 * waiting.imbalance)


@pytest.mark.parametrize("virtual", [1, 2])
def test_bytes_between_stages(virtual: int, run_with: Runs) -> None:
    run = piped(run_with, 2, virtual, model={"tie_embeddings": False})
    stream = 2 * 64 * 64 * 2  # of one micro-batch in bf16
    # Of four stages either rank sends three times up or down, always both streams.
    expected = stream * (streams_into(run, stages_of(run)[1].first) if virtual == 1 else 3 * 2)
    sent = communication_of(run, 2, GPUS["h100"])
    assert sent.between_stages == 4 * expected
    assert sent.pipeline_seconds == pytest.approx(sent.between_stages / 450e9)
    tied = communication_of(piped(run_with, 2, virtual, model={"tie_embeddings": True}), 2, GPUS["h100"])
    table = 4 * run.model.padded_vocab_size * 64
    assert tied.between_stages - sent.between_stages == table
    assert communication_of(run_with(), 2, GPUS["h100"]).between_stages == 0


def test_rows_name_ranks_and_layers(run_with: Runs) -> None:
    rows = stage_rows(piped(run_with, 2, virtual=2, parallel={"tensor": 2}), 8)
    assert [(row.first_rank, row.last_rank) for row in rows] == [(0, 3), (4, 7)]
    numbers = [number for row in rows for first, last in row.layers for number in range(first, last + 1)]
    assert sorted(numbers) == [1, 2, 3, 4, 5]
    assert sum(row.flops_share for row in rows) == pytest.approx(1)


def test_pipelines_are_proposed_where_nothing_else_fits(run_with: Runs) -> None:
    run = run_with(model={"num_attention_heads": 1}, training={"micro_batch_size": 1}, parallel={"zero_stage": 3})
    assert not any("parallel.pipeline" in changes for changes in make_plan(run, 2, GPUS["h100"]).proposals)
    run = run_with(
        model={"num_attention_heads": 1, "num_layers": 8, "vocab_size": 64},
        training={"micro_batch_size": 1, "precision": "fp32"},
        parallel={"recompute": "full"},
    )
    stages = changed(run, {"parallel.pipeline": 4})
    gpu = GPU("small", memory_of(stages, 2).total / 0.9 + 1, 1e12, 1e9, 1e9)
    made = make_plan(run, 8, gpu)
    assert made.proposals == [{"parallel.pipeline": 4}]
    assert make_plan(changed(run, made.proposals[0]), 8, gpu).fits


def test_the_tables_show_the_pipeline() -> None:
    config = str(CONFIGS / "armd_7b.yaml")
    done = CliRunner().invoke(app, ["plan", config, "parallel.pipeline=4", "parallel.tensor=4", "--gpus", "64"])
    assert done.exit_code == 0, done.output
    for text in ("tensor 4 x data 4 x pipeline 4", "pipeline rank", "48-63", "pipeline bubble", "It fits."):
        assert text in done.stdout
