"""One way in for everything that reads a trained model: a checkpoint, a run's newest one, or an export."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from armd_dist.checkpoint.tensors import load_model
from armd_dist.errors import ExportError
from armd_dist.model.armd import ARMD
from armd_dist.model.config import ModelConfig
from armd_dist.model.denoiser import Denoiser
from armd_dist.model.layers import PlainLayers
from armd_dist.model.network import Network
from data_pipeline.tokenizer import Tokenizer


@dataclass(frozen=True)
class Opened:
    """A network in fp32 on this process, ready to evaluate.

    attention: data.attention of its training; block_length: the windows of a block-diffusion denoiser.
    """

    network: Network
    tokenizer: Tokenizer
    attention: str
    block_length: int | None = None

    @property
    def within_document(self) -> bool:
        return self.attention == "within_document"


def open_model(path: Path) -> Opened:
    """Whatever network stands there."""
    if (path / "config.json").is_file():
        return _open_export(path)
    model, run, checkpoint = load_model(path)
    tokenizer = Tokenizer.load(checkpoint / "tokenizer.model")
    return Opened(model, tokenizer, run.data.attention, run.orders.block_length)


def open_armd(path: Path) -> tuple[ARMD, Tokenizer]:
    """A network that generates. Raises ExportError for a denoiser."""
    opened = open_model(path)
    return require_armd(opened.network, path), opened.tokenizer


def require_armd(network: Network, path: Path) -> ARMD:
    """Raises ExportError for a denoiser, a baseline that is there to be evaluated."""
    if isinstance(network, Denoiser):
        raise ExportError(f"{path}: model.network=denoiser is trained and evaluated only; give a model of network armd")
    return network


def _open_export(path: Path) -> Opened:
    settings = json.loads((path / "config.json").read_text())
    if settings.get("model_type") != "armd":
        raise ExportError(f"{path}: config.json is of model_type={settings.get('model_type')}; give an ARMD export")
    config = ModelConfig(**{name: settings[name] for name in ModelConfig.model_fields if name in settings})
    with torch.device("meta"):
        model = ARMD(config, PlainLayers())
    weights = {
        name.removeprefix("armd."): tensor.float()
        for file in sorted(path.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }
    model.load_state_dict(weights, assign=True)
    attention = settings.get("trained", {}).get("attention", "across_documents")
    return Opened(model.eval().requires_grad_(False), Tokenizer.load(path / "tokenizer.model"), attention)
