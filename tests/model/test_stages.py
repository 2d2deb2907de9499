"""Stages are cut so that the dearest costs least, and together they compute what the whole network does."""

import itertools

import pytest
import torch
from toys import BOS, rows_of, scheme, tiny_config, tiny_model

from armd_dist.model.armd import ARMD
from armd_dist.model.config import ModelConfig
from armd_dist.model.cost import flops_by_layers
from armd_dist.model.layers import PlainLayers
from armd_dist.model.layout import lay_out
from armd_dist.model.network import make_network
from armd_dist.model.stages import Stage, equal_cuts, fair_cuts


def dearest(costs: list[float], stages: list[Stage]) -> float:
    return max(sum(costs[stage.first : stage.last]) for stage in stages)


def test_no_other_cut_has_a_cheaper_dearest_stage() -> None:
    costs = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0]
    for count in range(1, 8):
        ends = itertools.combinations(range(1, 7), count - 1)
        others = [[Stage(first, last, 7) for first, last in itertools.pairwise((0, *inner, 7))] for inner in ends]
        assert dearest(costs, fair_cuts(costs, count)) == min(dearest(costs, other) for other in others)


def test_more_stages_than_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="2 layers cannot be cut into 3 stages"):
        fair_cuts([1.0, 1.0], 3)


def test_two_stream_layers_weigh_more() -> None:
    """24 layers, half of them with two streams, in four stages: within 15 % of the mean, equal layers are far off."""
    config = ModelConfig.model_validate(
        {"vocab_size": 50_304, "hidden_size": 2048, "num_layers": 24, "num_attention_heads": 16}
    )
    costs = [float(cost) for cost in flops_by_layers(config, 1024)]
    mean = sum(costs) / 4
    assert dearest(costs, fair_cuts(costs, 4)) <= 1.15 * mean
    assert dearest(costs, equal_cuts(24, 4)) > 1.25 * mean


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("two_stream", "count"), [(0, 2), (2, 2), (2, 4), (3, 4), (4, 3)])
def test_stages_in_turn_are_the_whole_network(two_stream: int, count: int, tied: bool) -> None:
    whole = tiny_model(two_stream_layers=two_stream, tie_embeddings=tied)
    values = dict(whole.named_parameters())
    rows = rows_of(scheme("segments_in_blocks"), batch=2)
    layout = lay_out(*rows, BOS)
    passed = None
    for stage in equal_cuts(4, count):
        part = ARMD(whole.config, PlainLayers(), stage).to(torch.float64)
        part.load_state_dict({name: values[name] for name, _ in part.named_parameters()})
        passed = part(layout, rows=passed)
    assert torch.equal(passed, whole(layout))


@pytest.mark.parametrize("network", ["armd", "denoiser"])
def test_every_weight_is_in_one_stage_but_a_tied_embedding_in_two(network: str) -> None:
    config = tiny_config(network=network, tie_embeddings=True)
    names = [
        name for stage in equal_cuts(4, 3) for name, _ in make_network(config, PlainLayers(), stage).named_parameters()
    ]
    assert sorted({*names}) == sorted(name for name, _ in make_network(config, PlainLayers()).named_parameters())
    assert [name for name in names if names.count(name) > 1] == ["tokens.weight"] * 2
