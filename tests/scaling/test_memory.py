"""Weights, gradients and optimizer state by formula are what engines really hold; parameters, what each process has."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ranks import on_ranks
from torch import nn

from armd_dist.model.layers import PlainLayers
from armd_dist.model.network import make_network
from armd_dist.run import Run
from armd_dist.scaling.memory import BUCKET, Memory, local_parameters, memory_of

Runs = Callable[..., Run]
CASES = ["fp32 0", "fp32 1", "bf16 1", "bf16 2", "bf16 3", "fp32 0 ema", "bf16 3 ema"]
SWITCHES: dict[str, dict[str, Any]] = {
    "default": {},
    "qk_norm": {"qk_norm": True, "normalization": "layernorm"},
    "bias": {"bias": True, "normalization": "layernorm", "num_key_value_heads": 2, "activation": "swiglu"},
    "grouped_swiglu": {"num_key_value_heads": 2, "activation": "swiglu"},
    "untied_rotary": {"tie_embeddings": False, "position_embedding": "rotary"},
    "linear": {"query_context": "linear"},
    "both": {"query_context": "both"},
    "none": {"query_context": "none"},
    "denoiser": {"network": "denoiser"},
    "learned_order": {"network": "denoiser", "learned_order": True, "bias": True, "normalization": "layernorm"},
}


class Half(PlainLayers):
    """What one of two tensor-parallel processes holds."""

    def column(self, in_size: int, out_size: int, bias: bool = False) -> nn.Module:
        return nn.Linear(in_size, out_size // 2, bias=bias)

    def row(self, in_size: int, out_size: int, bias: bool = False) -> nn.Module:
        return nn.Linear(in_size // 2, out_size, bias=bias)

    def token_embedding(self, rows: int, size: int) -> nn.Module:
        return nn.Embedding(rows // 2, size)


@pytest.mark.parametrize("layers", [PlainLayers, Half])
@pytest.mark.parametrize("name", SWITCHES)
def test_parameters_of_a_process(name: str, layers: type[PlainLayers], run_with: Runs) -> None:
    model = run_with(model=SWITCHES[name]).model
    made = make_network(model, layers())
    assert local_parameters(model, 1 if layers is PlainLayers else 2) == sum(p.numel() for p in made.parameters())


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, int]]]:
    """Of both data-parallel processes and every case: the bytes by part."""
    folder = tmp_path_factory.mktemp("held")
    on_ranks(Path(__file__).with_name("held.py"), folder)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def planned(case: str, run_with: Runs) -> tuple[Memory, int]:
    """The plan of a case on two data-parallel processes, and the parameters of a process."""
    precision, stage, *ema = case.split()
    training = {"precision": precision, "ema_decay": 0.9 if ema else None}
    run = run_with(training=training, parallel={"zero_stage": int(stage)})
    return memory_of(run, data_size=2), local_parameters(run.model, 1)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("case", CASES)
def test_state_on_two_processes(case: str, rank: int, held: list[Any], run_with: Runs) -> None:
    memory, _ = planned(case, run_with)
    found = held[rank][case]
    # Shares are padded to whole elements for each process, buffers of a few scalars stay aside.
    near: dict[str, Any] = {"rel": 1e-3, "abs": 2048}
    assert found["adam_moments"] == pytest.approx(memory.adam_moments, **near)
    assert found.get("weights", memory.weights) == pytest.approx(memory.weights, **near)
    expected = memory.state - memory.buffers
    if case == "fp32 1":  # reducing leaves a process its share of the gradients, and all of a matrix on the border
        expected -= memory.gradients - memory.gradients // 2
        near["abs"] += 4 * 512 * 64
    bucket = (
        2 * BUCKET if case.startswith("bf16 3") else 0
    )  # elsewhere it has gone again, as have the weights that were fetched
    assert found["live"] - bucket == pytest.approx(expected, **near)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["fp32 0", "fp32 1"])
def test_gradients_accumulate_whole_below_stage_2(case: str, held: list[Any], run_with: Runs) -> None:
    memory, _ = planned(case, run_with)
    assert held[0][case]["gradients"] == memory.gradients


@pytest.mark.slow
def test_stage_3_never_holds_the_whole_model(held: list[Any]) -> None:
    for found in held:
        assert found["left whole"]["3"] == 0
        assert found["left whole"]["2"] > 0, "the measure sees what is whole"


def test_offloading_leaves_the_optimizer_to_the_host(run_with: Runs) -> None:
    memory = memory_of(run_with(parallel={"zero_stage": 2, "offload_optimizer": True}), data_size=2)
    kept = memory_of(run_with(parallel={"zero_stage": 2}), data_size=2)
    assert memory.master_weights == memory.adam_moments == memory.gradients == 0
    assert memory.host == kept.master_weights + kept.adam_moments + kept.gradients


def test_an_average_lies_where_the_masters_lie(run_with: Runs) -> None:
    for offload in (False, True):
        parallel = {"zero_stage": 2, "offload_optimizer": offload}
        without = memory_of(run_with(parallel=parallel), data_size=2)
        averaged = memory_of(run_with(parallel=parallel, training={"ema_decay": 0.999}), data_size=2)
        more = local_parameters(run_with().model, 1) // 2 * 4
        assert (averaged.total - without.total, averaged.host - without.host) == ((0, more) if offload else (more, 0))


def test_overlapping_takes_a_second_bucket(run_with: Runs) -> None:
    beside = memory_of(run_with(parallel={"zero_stage": 2}), data_size=2)
    waited = memory_of(run_with(parallel={"zero_stage": 2, "overlap": False}), data_size=2)
    assert beside.buffers == 2 * waited.buffers == 4 * BUCKET
