"""Texts behind contexts under a denoiser: what is given is never hidden, and never counted."""

import numpy as np
import pytest
import torch
from toys import tiny_config

from armd_dist.evaluation.evaluate import Evaluation
from armd_dist.evaluation.items import Item
from armd_dist.evaluation.schemes import Masked
from armd_dist.evaluation.scoring import Scorer
from armd_dist.model.denoiser import Denoiser, lay_out_masked
from armd_dist.model.initialization import initialize
from armd_dist.model.layers import PlainLayers

BOS = 1
DRAW = np.random.default_rng(0)
WHOLE = [DRAW.integers(2, 40, size=size) for size in (9, 7, 12, 9)]


class _Texts:
    """Tokens, of which so many are given."""

    eos_id = None

    def __init__(self, texts: list[np.ndarray], known: int) -> None:
        self.texts, self.known = texts, known
        self.shapes = [(len(text), known) for text in texts]

    def items(self, numbers: list[int]) -> list[Item]:
        return [
            Item(self.texts[n], self.known, np.zeros(len(self.texts[n]) - self.known, dtype=np.int64), None, True)
            for n in numbers
        ]


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    config = tiny_config(network="denoiser", vocab_size=40, num_layers=2, init_std=0.3)
    network = Denoiser(config, PlainLayers())
    initialize(network, config, seed=0)
    return network.double().eval()


def nats(network: Denoiser, texts: list[np.ndarray], known: int, block_length: int | None) -> np.ndarray:
    scheme = Masked("bound", block_length, draws=2)
    records = Evaluation(Scorer(network), _Texts(texts, known), BOS, batch_size=2).records(scheme)
    return np.array([np.mean(parts[0][4]) for parts, _ in records])


def test_windows_of_one_token_leave_nothing_to_chance(denoiser: Denoiser) -> None:
    """Then the bound is exact, and a text behind a context costs what both cost less what the context does."""
    both, contexts = nats(denoiser, WHOLE, 0, 1), nats(denoiser, [text[:4] for text in WHOLE], 0, 1)
    np.testing.assert_allclose(nats(denoiser, WHOLE, 4, 1), both - contexts, rtol=1e-10)


def test_one_token_behind_a_context_is_exact_over_whole_texts(denoiser: Denoiser) -> None:
    found = nats(denoiser, WHOLE, 6, None)
    for text, mine in zip(WHOLE, found, strict=True):
        if len(text) > 7:
            continue
        ids = torch.from_numpy(text)[None]
        masked = torch.zeros_like(ids, dtype=torch.bool)
        masked[:, 6:] = True
        with torch.no_grad():
            logits = denoiser(lay_out_masked(ids, masked, len(text), BOS))[6, 0]
        assert mine == pytest.approx(-logits.log_softmax(-1)[ids[0, 6]].item(), rel=1e-10)


def test_batches_do_not_mix_shapes(denoiser: Denoiser) -> None:
    """Rows of a denoiser see those behind them: nothing is padded, and texts of a batch stay apart."""
    together = nats(denoiser, WHOLE, 2, None)
    alone = Evaluation(Scorer(denoiser), _Texts(WHOLE, 2), BOS, batch_size=1).records(Masked("bound", None, draws=2))
    np.testing.assert_allclose(together, [np.mean(parts[0][4]) for parts, _ in alone], rtol=1e-10)
