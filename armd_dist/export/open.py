"""One way in for everything that reads a trained model: a checkpoint, a run's newest one, or an export."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from armd_dist.checkpoint.tensors import load_model
from armd_dist.errors import ExportError
from armd_dist.model.armd import ARMD
from armd_dist.model.config import ModelConfig
from armd_dist.model.layers import PlainLayers
from data_pipeline.tokenizer import Tokenizer


def open_model(path: Path) -> tuple[ARMD, Tokenizer]:
    """The model in fp32 on this process, ready to evaluate, with its tokenizer."""
    if (path / "config.json").is_file():
        return _open_export(path)
    model, _, checkpoint = load_model(path)
    return model, Tokenizer.load(checkpoint / "tokenizer.model")


def _open_export(path: Path) -> tuple[ARMD, Tokenizer]:
    settings = json.loads((path / "config.json").read_text())
    if settings.get("model_type") != "armd":
        raise ExportError(f"{path}: config.json is of model_type={settings.get('model_type')}; give an ARMD export")
    config = ModelConfig(**{name: settings[name] for name in ModelConfig.model_fields})
    with torch.device("meta"):
        model = ARMD(config, PlainLayers())
    weights = {
        name.removeprefix("armd."): tensor.float()
        for file in sorted(path.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False), Tokenizer.load(path / "tokenizer.model")
