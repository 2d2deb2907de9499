"""No row knows a token of its own block or a later one, and every row knows all earlier ones."""

import pytest
import torch
from checks import blindness, influence_by_gradient, influence_by_intervention, leak, logits_of, storage_dependence
from toys import CONTEXTS, SCHEMES, Rows, rows_of, scheme, tiny_model

# Without two-stream layers a token is read as somebody's neighbour or never: only left to right sees all of them.
CASES = [(context, layers) for context in CONTEXTS for layers in (1, 2, 4)] + [("neighbours", 0), ("none", 0)]


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize(("context", "two_stream"), CASES)
def test_no_leak_and_no_blindness(context: str, two_stream: int, name: str) -> None:
    model = tiny_model(query_context=context, two_stream_layers=two_stream)
    rows = rows_of(scheme(name), distinct=True)
    knows_all = two_stream > 0 or (context, name) == ("neighbours", "left_to_right")
    gradient, intervention = influence_by_gradient(model, rows), influence_by_intervention(model, rows)
    assert leak(gradient, rows) == 0
    assert leak(intervention, rows) < 1e-12
    if knows_all:
        assert blindness(gradient, rows) == blindness(intervention, rows) == 0


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize(("context", "two_stream"), CASES)
def test_storage_order_permutes_logits_and_nothing_else(context: str, two_stream: int, name: str) -> None:
    model = tiny_model(query_context=context, two_stream_layers=two_stream)
    assert storage_dependence(model, rows_of(scheme(name), batch=2)) < 1e-10


@pytest.mark.parametrize("tied", [False, True])
def test_each_sequence_of_a_batch_has_an_order_of_its_own(tied: bool) -> None:
    model = tiny_model(tie_embeddings=tied)
    names = ["left_to_right", "any_order", "segments", "strided_2_ragged", "masked_diffusion", "prompt_then_any"]
    apart = [rows_of(scheme(name), seed=seed) for seed, name in enumerate(names)]
    together = Rows(*(torch.cat(parts) for parts in zip(*apart, strict=True)))
    torch.testing.assert_close(
        logits_of(model, together), torch.cat([logits_of(model, rows) for rows in apart]), rtol=0, atol=1e-10
    )
