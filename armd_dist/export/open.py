"""One way in for everything that reads a trained model: a checkpoint, a run's newest one, or an export."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from armd_dist.checkpoint.folder import resolve_checkpoint
from armd_dist.checkpoint.tensors import load_model
from armd_dist.errors import ConfigError, EvaluationError, ExportError, Problem
from armd_dist.model.armd import ARMD
from armd_dist.model.config import ModelConfig
from armd_dist.model.denoiser import Denoiser
from armd_dist.model.layers import PlainLayers
from armd_dist.model.learned_order import LearnedOrderDenoiser
from armd_dist.model.network import Network
from armd_dist.model.packing import pack
from data_pipeline.tokenizer import Tokenizer

AGAIN = "write it anew with armd export CHECKPOINT OUT"
DENOISER = "model.network=denoiser is trained and evaluated only; give a model of network armd"
LEARNED = "model.learned_order=true writes text by armd generate --order learned alone; give a model of network armd"
NOT_LEARNED = "has learned no order; use another --order, or give a model with model.learned_order=true"


@dataclass(frozen=True)
class Opened:
    """A network in fp32 on this process, ready to evaluate.

    attention: data.attention of its training; trained_length: tokens of the sequences that it was trained on, which may
    be fewer than it has positions for; block_length: the windows of a block-diffusion denoiser; ema: its weights are
    their average over training (training.ema_decay) and not those of the last step.
    """

    network: Network
    tokenizer: Tokenizer
    attention: str
    trained_length: int
    block_length: int | None = None
    ema: bool = False

    @property
    def within_document(self) -> bool:
        return self.attention == "within_document"


def open_model(path: Path, ema: bool = False) -> Opened:
    """Whatever network stands there; of a checkpoint with the average of its weights if asked for."""
    if (path / "config.json").is_file():
        if ema:
            raise ExportError(f"--ema: {path} is an export, whose README says which weights it has; leave out --ema")
        return _open_export(path)
    model, run, checkpoint = load_model(path, ema)
    tokenizer = Tokenizer.load(checkpoint / "tokenizer.model")
    return Opened(model, tokenizer, run.data.attention, run.data.sequence_length, run.orders.block_length, ema)


def window_length(opened: Opened, asked: int | None) -> int:
    """Tokens of the windows to evaluate: what is asked for, or what was trained. Raises EvaluationError.

    At learned positions beyond those of training a network says nothing of what it has learned.
    """
    longest = opened.network.config.max_sequence_length
    if asked is not None and asked > longest:
        rule = f"is longer than the model's max_sequence_length={longest}"
        raise EvaluationError(f"--sequence-length {asked}: {rule}; trained was {opened.trained_length}")
    return asked or opened.trained_length


def open_armd(path: Path, ema: bool = False) -> tuple[ARMD, Tokenizer]:
    """A network that generates. Raises ExportError for a denoiser."""
    opened = open_model(path, ema)
    return require_armd(opened.network, path), opened.tokenizer


def open_generator(path: Path, learned: bool, ema: bool = False) -> tuple[ARMD | LearnedOrderDenoiser, Tokenizer]:
    """A network that generates in an order that is given, or learned. Raises ExportError for another one."""
    opened = open_model(path, ema)
    return _require(opened.network, path, learned), opened.tokenizer


@contextmanager
def open_across(
    path: Path, tensor: int, learned: bool, ema: bool = False
) -> Iterator[tuple[ARMD | LearnedOrderDenoiser, Tokenizer]]:
    """The same, split over the `tensor` processes of this job. Collective.

    Raises ExportError also for an export, ConfigError where the network cannot be split so.
    """
    from armd_dist.parallel.config import ParallelConfig
    from armd_dist.parallel.opening import open_parallel
    from armd_dist.parallel.topology import start, stop

    if (path / "config.json").is_file():
        rule = "is an export, which one process opens; give the checkpoint, or leave out --tensor-parallel"
        raise ExportError(f"{path}: {rule}")
    topology = start(ParallelConfig.model_validate({"tensor": tensor}))
    try:
        part, _ = open_parallel(path, topology, ema)
        tokenizer = Tokenizer.load(resolve_checkpoint(path) / "tokenizer.model")
        yield _require(part.networks[0], path, learned), tokenizer
    finally:
        stop()


def require_armd(network: Network, path: Path) -> ARMD:
    """Raises ExportError for a denoiser, a baseline that is there to be evaluated, or one that learned its order."""
    if isinstance(network, Denoiser):
        raise ExportError(f"{path}: {LEARNED if isinstance(network, LearnedOrderDenoiser) else DENOISER}")
    return network


def _require(network: Network, path: Path, learned: bool) -> ARMD | LearnedOrderDenoiser:
    if not learned:
        return require_armd(network, path)
    if not isinstance(network, LearnedOrderDenoiser):
        raise ExportError(f"--order learned: {path} {NOT_LEARNED}")
    return network


def _open_export(path: Path) -> Opened:
    config, attention, trained_length, ema = _read_config(path / "config.json")
    with torch.device("meta"):
        model = ARMD(config, PlainLayers())
    try:
        weights = {
            name.removeprefix("armd."): tensor.float()
            for file in sorted(path.glob("*.safetensors"))
            for name, tensor in load_file(file).items()
        }
        model.load_state_dict(weights, assign=True)
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ExportError(
            f"{path}: its safetensors are not the weights that config.json describes ({reason}); {AGAIN}"
        ) from error
    model = model.eval().requires_grad_(False)
    return Opened(model, Tokenizer.load(path / "tokenizer.model"), attention, trained_length, ema=ema)


def _read_config(file: Path) -> tuple[ModelConfig, str, int, bool]:
    """The network's settings, data.attention and the length that it was trained on, whether it holds an average of the
    weights. Raises ExportError."""
    try:
        settings: dict[str, Any] = json.loads(file.read_text())
        kind = settings.get("model_type")
        if kind != "armd":
            raise ExportError(f"{file}: is of model_type={kind}; give an ARMD export")
        config = ModelConfig(**{name: settings[name] for name in ModelConfig.model_fields if name in settings})
        trained = settings["trained"]
        return config, trained["attention"], int(trained["sequence_length"]), "ema_decay" in trained
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, one['loc']))}={one['input']}: {one['msg']}" for one in error.errors())
        raise ExportError(f"{file}: is not what armd export writes ({found}); {AGAIN}") from error
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ExportError(f"{file}: cannot be read ({error}); {AGAIN}") from error
    except KeyError as error:
        raise ExportError(f"{file}: says nothing of trained.{error.args[0]}; {AGAIN}") from error


def settle(network: Network, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
    """Moves a network of one process to where it will be read, and readies it for that; nothing else can follow."""
    network.to(device, dtype)
    pack(network)


def device_of(name: str | None) -> torch.device:
    """What --device names; None: a GPU where there is one. Raises ConfigError where it cannot be used."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError([Problem("--device", name, f"cannot be used here ({reason})", "use --device cpu")]) from error
    return device
