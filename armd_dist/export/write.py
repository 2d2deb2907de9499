"""A checkpoint as a Hugging Face folder that loads with transformers alone."""

import shutil
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging as hf_logging

from armd_dist.checkpoint.folder import COMPLETE, read_training_state, sha256
from armd_dist.checkpoint.tensors import load_model
from armd_dist.errors import ExportError
from armd_dist.export.huggingface.configuration_armd import ArmdConfig
from armd_dist.export.model_card import model_card
from armd_dist.export.open import require_armd
from armd_dist.export.sources import write_sources
from armd_dist.export.tokenizer import require_exportable, write_fast_tokenizer
from armd_dist.model.armd import ARMD
from armd_dist.model.layout import lay_out
from armd_dist.run import Run
from data_pipeline.tokenizer import Tokenizer

TOLERANCE = 1e-5


def export_checkpoint(path: Path, out: Path, max_shard_size: str = "5GB", ema: bool = False) -> bool:
    """Writes the export and checks it against the checkpoint; False where `out` already is this checkpoint's export.

    ema: the average of its weights in their place. The folder appears in one rename once it is checked. Raises
    ExportError where `out` holds something else or the export does not give the checkpoint's logits.
    """
    network, run, checkpoint = load_model(path, ema)
    model = require_armd(network, path)
    tokenizer = require_exportable(checkpoint / "tokenizer.model")
    config = _config(model, run, checkpoint, tokenizer, ema)
    if out.exists():
        return _refuse_other(out, config)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    config.save_pretrained(partial)
    weights = {f"armd.{name}": weight for name, weight in model.state_dict().items()}
    save_torch_state_dict(weights, str(partial), max_shard_size=max_shard_size)
    write_sources(partial)
    write_fast_tokenizer(checkpoint / "tokenizer.model", partial, model_max_length=config.max_sequence_length + 1)
    shutil.copyfile(checkpoint / "tokenizer.model", partial / "tokenizer.model")
    GenerationConfig(
        bos_token_id=tokenizer.bos_id, eos_token_id=tokenizer.eos_id, pad_token_id=tokenizer.pad_id, use_cache=False
    ).save_pretrained(partial)
    (partial / "README.md").write_text(model_card(run, config))
    verify(model, partial, tokenizer)
    partial.rename(out)
    return True


def verify(model: ARMD, folder: Path, tokenizer: Tokenizer) -> None:
    """Loads the folder through transformers and compares logits on tokens drawn with a fixed seed."""
    hf_logging.disable_progress_bar()
    exported = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    length = min(64, model.config.max_sequence_length)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (2, length), generator=generator)
    places = torch.arange(1, length + 1).expand_as(ids)
    blocks = (places - 1) % 8 + 1  # several tokens a block, so that masks are tried too
    with torch.no_grad():
        wanted = model(lay_out(ids, places, blocks, tokenizer.bos_id)).transpose(0, 1)
        found = exported(ids, block=blocks).logits
    difference = (wanted - found).abs().max().item()
    if not difference <= TOLERANCE:
        raise ExportError(f"{folder}: logits differ from the checkpoint's by {difference:.2e} (allowed: {TOLERANCE})")


def _config(model: ARMD, run: Run, checkpoint: Path, tokenizer: Tokenizer, ema: bool) -> ArmdConfig:
    state = read_training_state(checkpoint)
    settings: dict[str, Any] = model.config.model_dump()
    return ArmdConfig(
        **settings,
        trained={
            "checkpoint_sha256": sha256(checkpoint / COMPLETE),
            "step": state.step,
            "tokens": state.consumed_samples * run.data.sequence_length,
            "sequence_length": run.data.sequence_length,
            "data_manifest_sha256": state.manifest_hash,
            "attention": run.data.attention,
            **({"ema_decay": run.training.ema_decay} if ema else {}),
        },
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.pad_id,
        architectures=["ArmdForCausalLM"],
        dtype="float32",
        auto_map={
            "AutoConfig": "configuration_armd.ArmdConfig",
            "AutoModelForCausalLM": "modeling_armd.ArmdForCausalLM",
        },
    )


def _refuse_other(out: Path, config: ArmdConfig) -> bool:
    try:
        same = ArmdConfig.from_pretrained(out).trained == config.trained
    except OSError:
        same = False
    if not same:
        raise ExportError(f"{out}: exists and is not this export of this checkpoint; choose another folder")
    return False
