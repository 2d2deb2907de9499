"""The network that the settings name."""

from armd_dist.model.armd import ARMD
from armd_dist.model.config import ModelConfig
from armd_dist.model.denoiser import Denoiser
from armd_dist.model.layers import Layers
from armd_dist.model.learned_order import LearnedOrderDenoiser
from armd_dist.model.stages import Stage

Network = ARMD | Denoiser


def make_network(config: ModelConfig, layers: Layers, stage: Stage | None = None) -> Network:
    """ARMD, or the denoiser of the masked-diffusion baselines, uninitialised. stage: a part of it; None for all.

    With a learned order there are no parts: every process has all layers.
    """
    if config.learned_order:
        return LearnedOrderDenoiser(config, layers)
    return Denoiser(config, layers, stage) if config.network == "denoiser" else ARMD(config, layers, stage)
