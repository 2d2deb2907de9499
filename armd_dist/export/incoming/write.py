"""A pretrained model as a checkpoint that `armd train checkpoint.weights_from=OUT` begins with."""

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.utils import logging as hf_logging

from armd_dist.checkpoint.folder import TrainingState, finish
from armd_dist.checkpoint.pieces import Piece
from armd_dist.checkpoint.tensors import VOCABULARY
from armd_dist.checkpoint.writing import write_tensors
from armd_dist.config import to_yaml
from armd_dist.errors import CheckpointError, IncomingError, describe
from armd_dist.export.incoming.families import FAMILIES, NO_WEIGHTS, Weights
from armd_dist.export.incoming.folder import Incoming
from armd_dist.model.armd import ARMD
from armd_dist.model.config import ModelConfig
from armd_dist.model.layers import PlainLayers
from armd_dist.model.layout import lay_out
from armd_dist.run import Run
from data_pipeline.tokenizer import Tokenizer

TOLERANCE = 1e-5  # of the largest logit
ALONE = {"world_size": 1, "tensor": 1, "pipeline": 1, "data": 1}


@dataclass(frozen=True)
class Imported:
    """The network's settings, and the largest difference of a logit, None where nobody looked."""

    config: ModelConfig
    difference: float | None


def import_model(folder: Path, out: Path, max_sequence_length: int | None = None, check: bool = True) -> Imported:
    """Writes the checkpoint OUT, in one rename, of a Hugging Face folder.

    check: load the model in transformers too, and compare logits. Memory: 4 bytes a parameter, as many again for the
    check. Raises ArmdError or DataError.
    """
    if out.exists():
        raise IncomingError(f"{out}: exists; choose another folder")
    given = Incoming(folder)
    family = FAMILIES.get(given.kind or "")
    if family is None:
        known = ", ".join(FAMILIES)
        raise IncomingError(f"{given.config}: is of model_type={given.kind}; give a model of one of {known}")
    given.expect("quantization_config", None, None)
    try:
        config, tokenizer = family.read(given, max_sequence_length)
    except (KeyError, TypeError, ValidationError) as error:
        raise IncomingError(f"{given.config}: is not what a {given.kind} has ({error!r}); download it again") from error
    weights = family.weigh(given, config)
    given.refuse_rest(NO_WEIGHTS)
    for name in weights:  # one after the other: what a copy replaces is free again
        weights[name] = weights[name].contiguous()
    difference = _compare(folder, config, weights, tokenizer.bos_id) if check and given.kind != "armd" else None
    _write(out, _run(out, given, config), weights, tokenizer, _state(given, tokenizer, config))
    return Imported(config, difference)


def _write(out: Path, run: Run, weights: Weights, tokenizer: Tokenizer, state: TrainingState) -> None:
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "state").mkdir(parents=True)
        pieces = {f"weight/{name}": Piece.of_whole(_padded(name, weights.pop(name), run.model)) for name in [*weights]}
        with warnings.catch_warnings(action="ignore"):  # that there is one process only
            sums = write_tensors(partial, pieces)
        (partial / "run.yaml").write_text(to_yaml(run))
        (partial / "tokenizer.model").write_bytes(tokenizer.content)
        finish(partial, out, state, sums)
    except (OSError, CheckpointError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise IncomingError(f"{out}: cannot be written ({describe(error)}); nothing is left of it") from error


def _padded(name: str, weight: Tensor, config: ModelConfig) -> Tensor:
    """With rows of zeros that fill up the vocabulary, as checkpoints have them."""
    rows = config.padded_vocab_size - config.vocab_size if name in VOCABULARY else 0
    return torch.cat((weight, weight.new_zeros(rows, weight.shape[1]))) if rows else weight


def _run(out: Path, given: Incoming, config: ModelConfig) -> Run:
    """Settings that stand for a training that was none here."""
    trained: dict[str, Any] = given.settings.get("trained") or {}
    length = trained.get("sequence_length", min(config.max_sequence_length, 1024))
    attention = trained.get("attention", "across_documents")
    return Run.model_validate(
        {
            "run": {"dir": str(out)},
            "model": config.model_dump(),
            "orders": {"rho_max": min(32, 1 << (length.bit_length() - 1))},
            "data": {"path": "imported", "sequence_length": length, "attention": attention},
            "training": {"steps": 1, "warmup_steps": 0, "precision": "fp32"},
        }
    )


def _state(given: Incoming, tokenizer: Tokenizer, config: ModelConfig) -> TrainingState:
    """Where training stood; of a model of others nothing is known."""
    trained: dict[str, Any] = given.settings.get("trained") or {}
    samples = trained.get("tokens", 0) // trained.get("sequence_length", 1)
    data = trained.get("data_manifest_sha256", "imported")
    return TrainingState(trained.get("step", 0), samples, 0, "left_to_right", 1, data, tokenizer.sha256, ALONE, {})


@torch.no_grad()
def _compare(folder: Path, config: ModelConfig, weights: Weights, bos_id: int) -> float:
    """The largest difference of a logit, left to right, on random tokens behind BOS."""
    with torch.device("meta"):
        network = ARMD(config.model_copy(update={"pad_vocab_to": 1}), PlainLayers())
    network.load_state_dict(weights, assign=True)
    hf_logging.disable_progress_bar()
    try:
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    except Exception as error:  # whatever its files may raise there
        raise IncomingError(f"{folder}: transformers cannot load it ({describe(error)}); download it again") from error
    length = min(64, config.max_sequence_length)
    ids = torch.randint(config.vocab_size, (2, length), generator=torch.Generator().manual_seed(0))
    places = torch.arange(1, length + 1).expand_as(ids)
    found = network.eval()(lay_out(ids, places, places, bos_id)).transpose(0, 1)
    inputs = torch.cat((torch.full((2, 1), bos_id), ids[:, :-1]), dim=1)
    wanted = theirs.eval()(inputs).logits[..., : config.vocab_size]
    difference, most = (found - wanted).abs().max().item(), max(1.0, wanted.abs().max().item())
    if not difference <= TOLERANCE * most:
        rule = f"logits differ by {difference:.2e}, and the largest is {most:.3g}"
        raise IncomingError(f"{folder}: the network here does not compute what transformers does ({rule})")
    return difference
