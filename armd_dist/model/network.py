"""The network that the settings name."""

from armd_dist.model.armd import ARMD
from armd_dist.model.config import ModelConfig
from armd_dist.model.denoiser import Denoiser
from armd_dist.model.layers import Layers

Network = ARMD | Denoiser


def make_network(config: ModelConfig, layers: Layers) -> Network:
    """ARMD, or the denoiser of the masked-diffusion baselines, uninitialised."""
    return Denoiser(config, layers) if config.network == "denoiser" else ARMD(config, layers)
