"""Dropout falls on the embedded streams and on what each attention and MLP adds, in training and nowhere else."""

import pytest
import torch
from torch import Tensor, nn
from toys import rows_of, scheme, tiny_model

from armd_dist.model.armd import ARMD


def logits(model: ARMD, seed: int = 0, order: str = "any_order") -> Tensor:
    torch.manual_seed(seed)
    return model(rows_of(scheme(order), batch=2).layout())[..., : model.config.vocab_size]


@pytest.mark.parametrize("context", ["neighbours", "linear", "both", "none"])
def test_only_in_training(context: str) -> None:
    model = tiny_model(query_context=context, hidden_dropout=0.3)
    without = tiny_model(query_context=context)
    assert torch.equal(logits(model.eval()), logits(without))
    assert torch.equal(logits(model.eval(), seed=1), logits(without))
    model.train()
    assert torch.equal(logits(model), logits(model)), "a function of the seed"
    assert (logits(model) - logits(model, seed=1)).abs().max() > 1e-3
    assert (logits(model) - logits(without)).abs().max() > 1e-3


def test_zero_draws_nothing() -> None:
    """So that the default keeps every number, and the generator's place, as without dropout."""
    model = tiny_model(hidden_dropout=0.0).train()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    model(rows_of(scheme("any_order")).layout())
    assert torch.equal(torch.get_rng_state(), before)


def test_where_it_falls() -> None:
    """Two streams embedded; two sums in each of the four layers; on whole hidden states, scaled to keep the mean."""
    model = tiny_model(hidden_dropout=0.25).train()
    seen: list[tuple[Tensor, Tensor]] = []
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda _m, inputs, output: seen.append((inputs[0], output)))
    logits(model)
    assert len(seen) == 2 + 2 * 4
    for before, after in seen:
        assert before.shape[-1] == model.config.hidden_size
        kept = after != 0
        assert 0.6 < kept.double().mean() < 0.9
        torch.testing.assert_close(after[kept], before[kept] / 0.75, rtol=1e-12, atol=0)
