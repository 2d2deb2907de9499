"""Whether an export is its checkpoint: the folder, loaded through transformers, beside the network itself."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.utils import logging as hf_logging

from armd_dist.checkpoint.tensors import load_model
from armd_dist.errors import ExportError, describe
from armd_dist.export.open import require_armd
from armd_dist.export.sources import MODEL_CLASS
from armd_dist.generation.decoder import decode
from armd_dist.generation.passes import make_batch, turns_of
from armd_dist.generation.sampling import Sampling
from armd_dist.model.armd import ARMD
from armd_dist.model.layout import Layout, lay_out
from armd_dist.orders.strided import strided_places
from armd_dist.run import Run
from data_pipeline.errors import DataError
from data_pipeline.manifest import check_tokenizer
from data_pipeline.remote import is_remote
from data_pipeline.stream import TokenStream
from data_pipeline.tokenizer import Tokenizer

TOLERANCE = 1e-5  # of a logit, and of nats per token
WINDOWS, LONGEST, NEW_TOKENS = 4, 256, 32
STREAMS = (1, 4)
FIXED = "tokens of a fixed seed, as the run's data is not at hand"


@dataclass(frozen=True)
class Verified:
    """What was compared: `text`, by name; the largest difference of a logit; perplexity of the text, left to right, and
    that of the weights in fp32."""

    text: str
    difference: float
    perplexity: float
    in_fp32: float


def verify(folder: Path, checkpoint: Path, ema: bool, dtype: torch.dtype, tokenizer: Tokenizer) -> Verified:
    """Compares logits, left to right and in blocks, perplexity of some windows, and greedy tokens of 1 and 4 streams.

    Both networks are in memory, in fp32: the checkpoint's with its weights rounded to `dtype`. The text is held-out
    text where run.yaml says where that is. Raises ExportError for whatever differs.
    """
    hf_logging.disable_progress_bar()
    network, run, _ = load_model(checkpoint, ema)
    model = require_armd(network, checkpoint)
    ids, text = find_text(run, tokenizer)
    in_fp32 = _nats(model, ids, tokenizer.bos_id)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype).float()
    exported = _load(folder)
    difference = _compare_logits(folder, model, exported, ids, tokenizer.bos_id)
    nats, found = _nats(model, ids, tokenizer.bos_id), _exported_nats(exported, ids, tokenizer.bos_id)
    if not abs(nats - found) <= TOLERANCE:
        raise _differs(folder, f"perplexity of {text} is {math.exp(found)} instead of {math.exp(nats)}")
    for streams in STREAMS:
        _compare_tokens(folder, model, exported, ids, tokenizer.bos_id, streams)
    return Verified(text, difference, math.exp(nats), math.exp(in_fp32))


def _load(folder: Path) -> Any:
    """Not through AutoModel, which in one process takes the code of the first folder for all that follow."""
    try:
        return get_class_from_dynamic_module(MODEL_CLASS, str(folder)).from_pretrained(folder, dtype=torch.float32)
    except Exception as error:  # whatever its code or its files may raise
        raise _differs(folder, f"transformers cannot load it ({describe(error)})") from error


def find_text(run: Run, tokenizer: Tokenizer) -> tuple[Tensor, str]:
    """Some windows [WINDOWS, tokens], and what they are: of held-out text, of training's, or of a fixed seed."""
    length = min(run.data.sequence_length, LONGEST)
    for path in _datasets(run):
        try:
            stream = TokenStream(path, length, seed=0)
            check_tokenizer(stream.manifest, tokenizer, path)
            windows = stream.windows(np.arange(min(WINDOWS, stream.num_windows)))
            return torch.from_numpy(windows), f"{len(windows)} windows of {path}"
        except DataError:
            continue
    generator = torch.Generator().manual_seed(0)
    return torch.randint(run.model.vocab_size, (WINDOWS, length), generator=generator), FIXED


def _datasets(run: Run) -> list[str]:
    """Where the run's text may be, held-out text first; nothing that would have to be fetched."""
    trained = [dataset.path for dataset in run.data.datasets]
    beside = [str(Path(path).with_name("held_out")) for path in trained if not is_remote(path)]
    found = [*([run.validation.path] if run.validation.path else []), *beside, *trained]
    return [path for path in found if not is_remote(path)]


@torch.no_grad()
def _compare_logits(folder: Path, model: ARMD, exported: Any, ids: Tensor, bos_id: int) -> float:
    """The largest difference, left to right and in blocks of several tokens, whose masks are others."""
    places = torch.arange(1, ids.shape[1] + 1).expand_as(ids)
    blocks = (places - 1) % 8 + 1
    largest = 0.0
    for wanted, found in (
        (_left_to_right(ids, bos_id), exported(F.pad(ids, (1, 0), value=bos_id)[:, :-1]).logits),
        (lay_out(ids, places, blocks, bos_id), exported(ids, block=blocks).logits),
    ):
        difference = (model(wanted).transpose(0, 1) - found).abs().max().item()
        if not difference <= TOLERANCE:
            raise _differs(folder, f"logits differ by {difference:.2e} (allowed: {TOLERANCE})")
        largest = max(largest, difference)
    return largest


def _left_to_right(ids: Tensor, bos_id: int) -> Layout:
    places = torch.arange(1, ids.shape[1] + 1).expand_as(ids)
    return lay_out(ids, places, places, bos_id)


@torch.no_grad()
def _nats(model: ARMD, ids: Tensor, bos_id: int) -> float:
    """Per token, left to right."""
    logits = model(_left_to_right(ids, bos_id))
    return model.layers.token_nll(logits, ids).double().mean().item()


@torch.no_grad()
def _exported_nats(exported: Any, ids: Tensor, bos_id: int) -> float:
    """The same as transformers' users measure it: a call for each window that ends before its last token."""
    logits = exported(F.pad(ids, (1, 0), value=bos_id)[:, :-1]).logits
    return F.cross_entropy(logits.transpose(1, 2), ids, reduction="none").double().mean().item()


def _compare_tokens(folder: Path, model: ARMD, exported: Any, ids: Tensor, bos_id: int, streams: int) -> None:
    """Greedy continuations of two beginnings of the text."""
    known = ids[:2, : max(1, min(16, model.config.max_sequence_length // 4))]
    new = min(NEW_TOKENS, model.config.max_sequence_length - known.shape[1])
    if new < streams:
        return
    texts = [[*row, *[None] * new] for row in known.tolist()]
    turns = [turns_of(strided_places(new, streams))] * len(texts)
    generated = decode(model, *make_batch(texts, turns, bos_id), Sampling(0.0), bos_id, range(len(texts)))
    wanted = generated.tokens[generated.placed].view(len(texts), -1)
    asked = F.pad(known, (1, 0), value=bos_id)
    found = exported.generate(asked, streams=streams, max_new_tokens=new, eos_token_id=None)[:, asked.shape[1] :]
    if not torch.equal(wanted, found.cpu()):
        place = (wanted != found.cpu()).any(0).int().argmax().item()
        raise _differs(folder, f"greedy tokens of {streams} streams differ from token {place + 1} on")


def _differs(folder: Path, what: str) -> ExportError:
    return ExportError(
        f"{folder}: is not the checkpoint: {what}; it is kept to be looked at, and the next export replaces it"
    )
