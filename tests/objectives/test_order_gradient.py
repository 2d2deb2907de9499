"""The gradient of a learned order: the two-sample estimator, averaged over all pairs of maskings, is the true one."""

from collections.abc import Callable

import pytest
import torch
from order_toys import Tables, forward_scheduler, random_tables, reader, terms_at
from torch import Tensor

from armd_dist.objectives.order_diffusion import leave_one_out

TEXT = torch.tensor([1, 0, 1])


def at_time(tables: Tables, t: float) -> tuple[Tensor, Tensor]:
    """log q and loss of each masking of TEXT."""
    log_chance, terms = terms_at(reader(tables), forward_scheduler(tables, TEXT), TEXT, t)
    return log_chance, terms.total


def gradients(of: Callable[[Tables], Tensor]) -> list[Tensor]:
    """With respect to the denoiser, g_psi and g_phi."""
    tables = random_tables(3)
    for table in tables:
        table.requires_grad_()
    return list(torch.autograd.grad(of(tables), tables))


def true_mean(t: float) -> Callable[[Tables], Tensor]:
    def mean(tables: Tables) -> Tensor:
        log_chance, losses = at_time(tables, t)
        return (log_chance.exp() * losses).sum()

    return mean


def estimated(t: float, estimator: Callable[..., Tensor]) -> Callable[[Tables], Tensor]:
    """The estimator's mean over all pairs of maskings; their chances are not differentiated, as in training."""

    def mean(tables: Tables) -> Tensor:
        log_chance, losses = at_time(tables, t)
        first, second = (index.flatten() for index in torch.meshgrid(*[torch.arange(len(losses))] * 2, indexing="ij"))
        pairs = (losses[first], losses[second]), (log_chance[first], log_chance[second])
        return ((log_chance[first] + log_chance[second]).exp().detach() * estimator(*pairs)).sum()

    return mean


@pytest.mark.parametrize("t", [1e-12, 0.02, 0.4, 0.93, 1 - 1e-9])
def test_the_expected_gradient_is_the_enumerated_one(t: float) -> None:
    wanted, found = gradients(true_mean(t)), gradients(estimated(t, leave_one_out))
    for mine, exact in zip(found, wanted, strict=True):
        assert exact.abs().max() > 0
        # Velocities are w / t: near 0 the gradients grow with them.
        torch.testing.assert_close(mine, exact, rtol=1e-10, atol=1e-10)


def test_without_the_score_the_gradient_of_the_order_is_wrong() -> None:
    def plain(losses: tuple[Tensor, Tensor], log_probabilities: tuple[Tensor, Tensor]) -> Tensor:
        return (losses[0] + losses[1]) / 2

    wanted, found = gradients(true_mean(0.4)), gradients(estimated(0.4, plain))
    for mine, exact in zip(found[:2], wanted[:2], strict=True):
        torch.testing.assert_close(mine, exact, rtol=0, atol=1e-10)
    assert (found[2] - wanted[2]).abs().max() > 1e-3


def test_the_objective_of_equal_maskings_is_their_loss() -> None:
    losses, chances = torch.tensor([2.0, 5.0]), torch.tensor([-1.0, -3.0])
    assert leave_one_out((losses, losses), (chances, chances)).tolist() == [2, 5]
