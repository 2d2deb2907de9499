"""A checkpoint opened under tensor, pipeline and data parallelism says what it says on one process."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import on_ranks

from armd_dist.errors import CheckpointError, ConfigError
from armd_dist.parallel.opening import open_parallel
from armd_dist.parallel.topology import Topology

Found = dict[str, dict[str, Any]]
CASES = [
    (model, layout, kind)
    for model in ("tied", "untied")
    for layout in ("tensor", "pipeline", "data")
    for kind in ("weight", "ema")
]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What each of two processes found."""
    out = tmp_path_factory.mktemp("opened")
    on_ranks(Path(__file__).with_name("opening_ranks.py"), out)
    return [torch.load(out / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize(("model", "layout", "kind"), CASES)
def test_opened_anywhere_it_is_the_same_network(model: str, layout: str, kind: str, opened: list[Found]) -> None:
    name = f"{model}-{layout}-{kind}"
    apart = [rank[name]["apart"] for rank in opened]
    if layout == "pipeline":
        assert apart[0] is None, "the first stage predicts nothing"
        del apart[0]
    assert max(apart) < 1e-5
    # Not the run's own ZeRO stage: nothing is optimized here.
    sizes = {"tensor": (2, 1, 0), "pipeline": (1, 2, 0), "data": (1, 1, 0)}[layout]
    assert [(rank[name]["frozen"], rank[name]["layout"]) for rank in opened] == [(True, sizes)] * 2


@pytest.mark.parametrize("model", ["tied", "untied"])
def test_two_processes_generate_what_one_does(model: str, opened: list[Found]) -> None:
    """Heads and the vocabulary are split over them; every process has all tokens."""
    for rank in opened:
        split, alone = rank[f"{model}-tensor-weight"]["texts"]
        assert torch.equal(split.tokens, alone.tokens)
        assert (split.logprobs - alone.logprobs).abs().max() < 1e-4
        assert split.logprobs[split.placed].abs().min() > 1e-3, "there must be something to choose"
        assert split.passes == alone.passes == [5, 3, 3]


def test_a_process_holds_its_part_alone(opened: list[Found]) -> None:
    first, last = (rank["tied-pipeline-weight"]["weights"] for rank in opened)
    assert set(first) & set(last) == {"tokens.weight"}, "the tied head's copy, and nothing else, is in both stages"
    whole = opened[0]["tied-data-weight"]["weights"]
    assert set(first) | set(last) == set(whole)
    split = opened[1]["tied-tensor-weight"]["weights"]
    halved = {name for name, shape in split.items() if torch.Size(shape).numel() * 2 == torch.Size(whole[name]).numel()}
    assert {"tokens.weight", "two_stream.0.attention.query.weight", "two_stream.0.mlp.down.weight"} <= halved
    assert {name for name in whole if name not in halved} == {name for name in whole if split[name] == whole[name]}


def test_what_cannot_be_opened(trained: Path) -> None:
    """Told before anything is read or any group is asked."""
    three = Topology(0, 12, 0, 3, 0, 1, 0, 4, torch.device("cpu"))
    with pytest.raises(ConfigError) as error:
        open_parallel(trained, three)
    assert [str(problem) for problem in error.value.problems] == [
        "parallel.tensor=3: does not divide model.num_attention_heads=4; use 1, 2 or 4",
        "parallel.tensor=3: does not divide model.ffn_hidden_size=128; use 1, 2, 4, 8, 16, 32, 64 or 128",
        "parallel.tensor=3: does not divide model.padded_vocab_size=512; use 1, 2, 4, 8, 16, 32, 64, 128, 256 or 512",
        "parallel.pipeline=4: x virtual_pipeline=1 makes 4 stages of 3 layers; use at most model.num_layers=3 stages",
    ]
    with pytest.raises(CheckpointError, match=r"--ema: .* holds no average of the weights"):
        open_parallel(trained, three, ema=True)
