"""A small network that has an order of its own, untrained."""

from typing import Any

from toys import tiny_config

from armd_dist.model.initialization import initialize
from armd_dist.model.layers import PlainLayers
from armd_dist.model.learned_order import LearnedOrderDenoiser


def learner(vocab: int = 30, **changes: Any) -> LearnedOrderDenoiser:
    """In float64, with weights large enough that orders and tokens have preferences."""
    settings: dict[str, Any] = {
        "network": "denoiser",
        "learned_order": True,
        "num_layers": 2,
        "vocab_size": vocab,
        "init_std": 1.0,
    }
    config = tiny_config(**{**settings, **changes})
    model = LearnedOrderDenoiser(config, PlainLayers())
    initialize(model, config, seed=0)
    return model.double().eval()
