"""Every layout trains the same model: losses, gradient norms and final weights are those of one process.

20 AdamW steps with clipping and accumulation, on random orders, in fp32. `make test` runs a part, `make parity` all.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from grid import GRID, IN_BF16, QUICK, QUICK_FIGURES, QUICK_IN_BF16, REFERENCES, Legs
from ranks import on_ranks

TOLERANCE = 1e-5
BF16_LOSS, BF16_NORM = 0.01, 0.02  # nats; relative
TIMEOUT_SECONDS = 1200

Found = dict[str, dict[str, Any]]


def train(cases: dict[str, tuple[int, str, Legs]], folder: Path) -> Found:
    """Starts processes once for each number of them, and the references on one process."""
    folder.mkdir(exist_ok=True)
    wanted = {name: (1, name, [REFERENCES[name]]) for name in {reference for _, reference, _ in cases.values()}}
    wanted |= cases
    for processes in sorted({count for count, _, _ in wanted.values()}):
        legs = {name: legs for name, (count, _, legs) in wanted.items() if count == processes}
        script = Path(__file__).with_name("layouts.py")
        on_ranks(script, json.dumps(legs), folder, processes=processes, timeout=TIMEOUT_SECONDS)
    return {name: torch.load(folder / f"{name}.pt") for name in wanted}


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return train(QUICK | QUICK_IN_BF16 | QUICK_FIGURES, tmp_path_factory.mktemp("quick"))


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return train(GRID | IN_BF16, tmp_path_factory.mktemp("grid"))


def agree(found: dict[str, Any], wanted: dict[str, Any], loss: float, norm: float, weights: float | None) -> None:
    torch.testing.assert_close(found["curve"][:, 0], wanted["curve"][:, 0], rtol=0, atol=loss)
    torch.testing.assert_close(found["curve"][:, 1], wanted["curve"][:, 1], rtol=norm, atol=0)
    assert found["after"] == pytest.approx(wanted["after"], abs=loss)
    for part in ("weights", "average"):
        assert found[part].keys() == wanted[part].keys()
        for name, values in wanted[part].items():
            if weights is not None:
                torch.testing.assert_close(found[part][name], values, rtol=0, atol=weights)


def test_there_is_something_to_clip_and_to_learn(quick: Found) -> None:
    curve = quick["plain"]["curve"]
    assert curve[:, 1].min() > 0.5
    assert curve[-4:, 0].mean() < curve[:4, 0].mean() - 0.1


@pytest.mark.parametrize("name", sorted({reference for _, reference, _ in QUICK.values()}))
def test_the_average_is_that_of_plain_torch(name: str, quick: Found) -> None:
    average, reference, weights = (quick[name][part] for part in ("average", "reference", "weights"))
    torch.testing.assert_close(average, reference, rtol=0, atol=5e-7)
    assert average.keys() == weights.keys()
    apart = max((average[name] - weights[name]).abs().max().item() for name in average)
    assert apart > 1e-3, "averaging must make a difference"


@pytest.mark.parametrize("name", QUICK)
def test_layouts_agree_with_one_process(name: str, quick: Found) -> None:
    agree(quick[name], quick[QUICK[name][1]], TOLERANCE, TOLERANCE, TOLERANCE)


def test_a_learned_order_resumes_to_the_last_digit(quick: Found) -> None:
    agree(quick["learned_and_resumed"], quick["learned"], 0, 0, 0)


def test_documents_apart_are_another_thing_to_learn(quick: Found) -> None:
    assert (quick["apart"]["curve"] - quick["packed"]["curve"]).abs().amin(0).min() > 1e-4


@pytest.mark.grid
@pytest.mark.parametrize("name", GRID)
def test_all_layouts_agree_with_one_process(name: str, grid: Found) -> None:
    agree(grid[name], grid[GRID[name][1]], TOLERANCE, TOLERANCE, TOLERANCE)


@pytest.mark.parametrize("name", QUICK_IN_BF16)
def test_bf16_follows_fp32(name: str, quick: Found) -> None:
    agree(quick[name], quick["plain"], BF16_LOSS, BF16_NORM, weights=None)


@pytest.mark.grid
@pytest.mark.parametrize("name", IN_BF16)
def test_all_of_bf16_follows_fp32(name: str, grid: Found) -> None:
    agree(grid[name], grid["plain"], BF16_LOSS, BF16_NORM, weights=None)


EVALUATED = [name for name, (world, reference, _) in QUICK.items() if world > 1 and reference != "dropout"]


@pytest.mark.parametrize("name", EVALUATED)
def test_evaluating_says_what_the_first_step_says(name: str, quick: Found) -> None:
    """And changes nothing: one process, which is compared with, has not evaluated before it trained."""
    assert quick[name]["before"] == pytest.approx(quick[name]["curve"][0, 0].item(), abs=TOLERANCE)


def test_recompute_changes_no_digit_and_keeps_less(quick: Found) -> None:
    """With dropout, and each process' own: the same numbers are drawn again."""
    for once, full, selective in (
        ("kept_by_one", "kept_by_recompute", "kept_by_selective"),
        ("sequence_dropout", "sequence_dropout_recompute", "sequence_dropout_selective"),
    ):
        agree(quick[full], quick[once], 0, 0, 0)
        agree(quick[selective], quick[once], 0, 0, 0)
        assert quick[full]["saved"] < quick[once]["saved"] / 4
        assert quick[full]["saved"] < quick[selective]["saved"] < 0.8 * quick[once]["saved"]


def test_sequence_parallelism_keeps_less(quick: Found) -> None:
    one, tensor, sequence = (quick[name]["saved"] for name in ("kept_by_one", "kept_by_tensor_2", "tensor_2_sequence"))
    assert sequence < 0.8 * tensor < 0.8 * one


def test_zero_3_holds_no_matrix_between_steps(quick: Found) -> None:
    assert quick["data_2_zero_3"]["resident"] < quick["kept_by_one"]["resident"] / 20


def test_dropout_differs_where_rows_differ(quick: Found) -> None:
    """Equal on tensor-parallel processes, which hold the same rows; not where each holds its own."""
    assert len(set(quick["tensor_2_dropout"]["seeds"])) == 1
    assert len(set(quick["sequence_dropout"]["seeds"])) == 2
    apart = quick["sequence_dropout"]["curve"][:, 0] - quick["tensor_2_sequence"]["curve"][:, 0]
    assert apart.abs().max() > 1e-3
