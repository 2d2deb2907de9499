"""The benchmark of decoding on a network of a few weights: every way runs, and they agree where they must."""

import io

import pytest
import torch
from decode import check, measure, show
from decoders import GENERATE, LOOP, NO_CACHE, Contest, Size
from rich.console import Console

SIZE = Size(32, 2, 2, 50, 9, ((1, 0), (2, 6)), "cpu", torch.float32, rounds=2)


@pytest.fixture(scope="module")
def contest() -> Contest:
    return Contest(SIZE)


def test_every_way_in_turn(contest: Contest) -> None:
    check(contest)
    lines = [line for case in SIZE.cases for line in measure(contest, *case)]
    ours = ["S = 1", "S = 2", "S = 4", "S = 8"]
    assert [line["way"] for line in lines] == [*ours, NO_CACHE, GENERATE, LOOP, *ours, GENERATE, LOOP]
    assert all(0 < line["first_s"] <= line["last_s"] for line in lines)
    for line in lines:
        assert line["tokens_per_second"] == pytest.approx(line["batch"] * 9 / line["last_s"])
    assert [line["ratio"] for line in lines if line["way"] == "S = 1"] == [1.0, 1.0]
    # 9 tokens: 9 passes in one stream, 4 - 1 + 3 in four.
    four = next(line for line in lines if line["way"] == "S = 4")
    assert four["of_ideal"] == pytest.approx(four["ratio"] * 6 / 9)
    show(lines, Console(file=(screen := io.StringIO()), width=120))
    assert screen.getvalue().count("GPT-2, loop") == 2


def test_a_cache_that_changes_tokens_is_found(contest: Contest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "armd_dist.generation.cache.PreallocatedCache.extend", lambda self, keys, values: (keys, values)
    )
    with pytest.raises(AssertionError, match="S = 1: the cache changes"):
        check(contest)
