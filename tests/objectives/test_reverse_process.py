"""The reverse process: its kernel, its steps, and the jump chain that they become, enumerated and drawn."""

import math
from collections.abc import Callable

import pytest
import torch
from order_toys import EXPONENTS, LENGTH, SCHEDULERS, Tables, all_texts, likelihood, random_tables, reader, row_of
from torch import Tensor

from armd_dist.objectives.reverse_process import (
    Read,
    Reading,
    generate_in_blocks,
    generate_in_jumps,
    generate_in_steps,
    log_kernel,
)
from armd_dist.objectives.schedulers import polynomial, windowed

GRID = [0.0, 1e-9, 0.1, 1 / 3, 0.5, 0.8, 1 - 1e-9, 1.0]


def times(t: float) -> Tensor:
    return torch.tensor([t], dtype=torch.float64)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_kernel_is_a_distribution_at_all_times(name: str) -> None:
    tokens = torch.randn(1, LENGTH, 3, dtype=torch.float64).log_softmax(-1)
    for t in GRID:
        for s in (time for time in GRID if time <= t):
            kept = SCHEDULERS[name].log_kept(times(t), times(s))
            chances = log_kernel(tokens, kept).exp()
            torch.testing.assert_close(chances.sum(-1), torch.ones(1, LENGTH, dtype=torch.float64), rtol=0, atol=1e-14)
            torch.testing.assert_close(chances[..., -1], kept.exp())


@pytest.mark.parametrize("name", SCHEDULERS)
def test_what_is_kept_is_the_ratio_of_what_is_hidden(name: str) -> None:
    for t in GRID[1:]:
        hidden = SCHEDULERS[name].log_hidden(times(t)).exp()
        for s in (time for time in GRID if time <= t):
            earlier = SCHEDULERS[name].log_hidden(times(s)).exp()
            kept = SCHEDULERS[name].log_kept(times(t), times(s)).exp()
            torch.testing.assert_close(hidden * kept, earlier, rtol=1e-6 if min(1 - t, s) < 1e-8 else 1e-12, atol=0)


def test_a_polynomial_keeps_the_power_of_the_ratio_of_times() -> None:
    kept = polynomial(EXPONENTS).log_kept(times(0.8), times(0.2)).exp()
    torch.testing.assert_close(kept, 0.25**EXPONENTS, rtol=1e-14, atol=0)


def in_steps(tables: Tables, read: Read, steps: int) -> Tensor:
    """The distribution over texts that `steps` steps of the kernel make of the all-hidden one, by all masked texts."""
    digits = torch.cartesian_prod(*[torch.arange(tables.vocab + 1)] * tables.length)
    hidden = digits == tables.vocab
    log_probabilities, scheduler = read(digits * ~hidden, hidden)
    chances = hidden.all(1).double()
    for step in range(steps, 0, -1):
        t, s = (torch.full((len(digits),), time / steps, dtype=torch.float64) for time in (step, step - 1))
        kernel = log_kernel(log_probabilities, scheduler.log_kept(t, s)).exp()
        stays = torch.nn.functional.one_hot(digits, tables.vocab + 1).double()
        kernel = torch.where(hidden[..., None], kernel, stays)
        moves = (
            kernel[:, None]
            .expand(-1, len(digits), -1, -1)
            .gather(-1, digits[None, ..., None].expand(len(digits), -1, -1, -1))[..., 0]
            .prod(-1)
        )
        chances = chances @ moves
    return chances[~hidden.any(1)]


def test_many_steps_become_the_jump_chain() -> None:
    """Every number of steps is a distribution over texts; its distance to the jump chain's halves as steps double."""
    tables = random_tables(3)
    read = reader(tables)
    exact = torch.tensor([likelihood(read, text) for text in all_texts(tables)], dtype=torch.float64)
    distances = []
    for steps in (64, 128, 256):
        found = in_steps(tables, read, steps)
        assert found.sum().item() == pytest.approx(1, abs=1e-12)
        distances.append((found - exact).abs().sum().item())
    assert distances[2] < 0.02
    assert distances[1] == pytest.approx(distances[0] / 2, rel=0.2)
    assert distances[2] == pytest.approx(distances[1] / 2, rel=0.2)


def test_as_many_steps_as_windows_of_one_token_are_exact() -> None:
    tables = random_tables(3)
    read = reader(tables, windowed(1, 3, 1))
    exact = [likelihood(read, text) for text in all_texts(tables)]
    assert in_steps(tables, read, 3).tolist() == pytest.approx(exact, abs=1e-12)


Generate = Callable[[Read, Tensor, Tensor, torch.Generator], Tensor]
DRAWS = 20_000


@pytest.mark.parametrize("steps", [None, 4])
def test_what_is_drawn_has_the_enumerated_distribution(steps: int | None) -> None:
    tables = random_tables(3)
    read, texts = reader(tables), all_texts(tables)
    ids, hidden = torch.zeros(DRAWS, 3, dtype=torch.long), torch.ones(DRAWS, 3, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    if steps is None:
        drawn = generate_in_jumps(read, ids, hidden, generator)
        wanted = torch.tensor([likelihood(read, text) for text in texts], dtype=torch.float64)
    else:
        drawn = generate_in_steps(read, ids, hidden, steps, generator)
        wanted = in_steps(tables, read, steps)
    counts = row_of(drawn, 2).bincount(minlength=8)[row_of(texts, 2)]
    chi_square = ((counts - DRAWS * wanted).square() / (DRAWS * wanted)).sum().item()
    assert chi_square < 29.9  # 7 degrees of freedom: exceeded once in 10,000 seeds


@pytest.mark.parametrize("steps", [None, 1, 5])
def test_a_prompt_stays_and_everything_else_is_filled(steps: int | None) -> None:
    read = reader(random_tables(4))
    ids = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 0]])
    hidden = torch.tensor([[False, True, True, False], [True, False, True, False]])
    asked: list[Tensor] = []

    def watch(ids: Tensor, hidden: Tensor) -> object:
        asked.append(hidden)
        return read(ids, hidden)

    generator = torch.Generator().manual_seed(1)
    if steps is None:
        drawn = generate_in_jumps(watch, ids, hidden, generator)  # type: ignore[arg-type]
        assert [state.sum(1).tolist() for state in asked] == [[2, 2], [1, 1]]
    else:
        drawn = generate_in_steps(watch, ids, hidden, steps, generator)  # type: ignore[arg-type]
        assert len(asked) == steps
    assert torch.equal(drawn[~hidden], ids[~hidden])
    assert not math.isnan(drawn.sum().item())


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_block_is_what_is_likeliest_to_come_next(size: int) -> None:
    """Of what is still hidden, with a prompt in one text; known tokens stay."""
    tables, seen = random_tables(5), []

    def read(ids: Tensor, hidden: Tensor) -> Reading:
        seen.append((hidden, inner(ids, hidden).scheduler.exponents))
        return inner(ids, hidden)

    inner = reader(tables)
    ids, hidden = torch.zeros(3, 5, dtype=torch.long), torch.ones(3, 5, dtype=torch.bool)
    ids[0, 1], hidden[0, 1] = 1, False
    written = generate_in_blocks(read, ids, hidden, size, torch.Generator().manual_seed(0))
    assert written[0, 1] == 1
    assert len(seen) == math.ceil(5 / size)
    for (before, exponents), after in zip(seen, [*[hidden for hidden, _ in seen[1:]], hidden & False], strict=True):
        for row in range(3):
            likeliest = exponents[row].masked_fill(~before[row], 0.0).argsort(descending=True)[: before[row].sum()]
            assert (before & ~after)[row].nonzero()[:, 0].tolist() == sorted(likeliest[:size].tolist())
