"""A checkpoint as a Hugging Face folder that loads with transformers alone."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from armd_dist.checkpoint.folder import (
    COMPLETE,
    TrainingState,
    flaw,
    read_training_state,
    sha256,
    sync,
)
from armd_dist.checkpoint.tensors import open_checkpoint
from armd_dist.errors import ArmdError, CheckpointError, ExportError, describe
from armd_dist.export.chat_template import FILE, find_template, given_template
from armd_dist.export.files import DTYPES, TensorFile, parse_size, plan_files
from armd_dist.export.huggingface.configuration_armd import ArmdConfig
from armd_dist.export.model_card import Evaluation, find_evaluation, model_card
from armd_dist.export.open import DENOISER
from armd_dist.export.sources import AUTO_MAP, write_sources
from armd_dist.export.tokenizer import require_exportable, write_fast_tokenizer
from armd_dist.export.verify import Verified, verify
from armd_dist.export.weights import PREFIX, Source, exported_shapes, write_weights
from armd_dist.run import Run
from data_pipeline.tokenizer import Tokenizer

SMALL_FILES = 1 << 26  # bytes that everything but the weights may take: sources, tokenizer, README


@dataclass(frozen=True)
class Exported:
    """What was written: bytes of weights, and how they compare with the checkpoint, None where nobody looked."""

    bytes: int
    verified: Verified | None


@dataclass(frozen=True)
class _Job:
    """What an export is made of."""

    checkpoint: Path
    run: Run
    state: TrainingState
    tokenizer: Tokenizer
    ema: bool
    config: ArmdConfig
    files: list[TensorFile]
    evaluation: Evaluation | None
    chat_template: str | None

    @property
    def bytes(self) -> int:
        return sum(file.data_bytes for file in self.files)


def export_checkpoint(
    path: Path,
    out: Path,
    max_shard_size: str = "5GB",
    ema: bool = False,
    dtype: str = "float32",
    check: bool = True,
    evaluation: Path | None = None,
    told: Callable[[int, int], object] = lambda done, total: None,
    chat_template: Path | None = None,
) -> Exported | None:
    """Writes the export; None where `out` already is this export of this checkpoint.

    ema: the average of its weights in their place. check: load both and compare them. evaluation: an evaluation.json
    for the README. told: how many bytes of how many are written. chat_template: a Jinja file, or a Hugging Face folder
    that has one. The folder appears in one rename, once it is checked;
    one that differs stays as OUT's hidden neighbour. Memory, but for the check: some rows of one tensor. Raises
    ArmdError.
    """
    job = _prepare(path, max_shard_size, ema, dtype, evaluation, chat_template)
    if out.exists():
        _refuse_other(out, job)
        return None
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _require_room(partial, job.bytes)
        _write(job, partial, told)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ExportError(f"{out}: cannot be written ({describe(error)}); nothing is left of it") from error
    except ArmdError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    verified = verify(partial, job.checkpoint, ema, DTYPES[dtype], job.tokenizer) if check else None
    partial.rename(out)
    sync(out.parent)
    return Exported(job.bytes, verified)


def _prepare(
    path: Path, max_shard_size: str, ema: bool, dtype: str, evaluation: Path | None, chat_template: Path | None
) -> _Job:
    """All that can be refused before anything is written."""
    largest = parse_size(max_shard_size)
    checkpoint, run = open_checkpoint(path, ema)
    if problem := flaw(checkpoint):
        raise CheckpointError(f"{problem}; export another checkpoint of its run")
    if run.model.network == "denoiser":
        raise ExportError(f"{path}: {DENOISER}")
    tokenizer = require_exportable(checkpoint / "tokenizer.model")
    state = read_training_state(checkpoint)
    shapes = {f"{PREFIX}{name}": shape for name, shape in exported_shapes(run.model).items()}
    config = _config(run, state, checkpoint, tokenizer, ema, dtype)
    found = find_evaluation(checkpoint, ema, evaluation)
    template = None if chat_template is None else given_template(chat_template)[0]
    files = plan_files(shapes, DTYPES[dtype], largest)
    return _Job(checkpoint, run, state, tokenizer, ema, config, files, found, template)


def _require_room(folder: Path, weights: int) -> None:
    free, needed = shutil.disk_usage(folder).free, weights + SMALL_FILES
    if free < needed:
        rule = f"needs {needed / 1e9:.2f} GB, and its disk has {free / 1e9:.2f} GB free"
        raise ExportError(f"{folder.parent}: {rule}; make room, use another disk, or --dtype bfloat16")


def _write(job: _Job, folder: Path, told: Callable[[int, int], object]) -> None:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        told(done := done + count, job.bytes)

    source = Source.of(job.checkpoint, job.ema, job.run.model)
    write_weights(source, job.files, folder, advance)
    tokenizer, longest = job.checkpoint / "tokenizer.model", job.config.max_sequence_length
    job.config.save_pretrained(folder)
    write_sources(folder)
    write_fast_tokenizer(tokenizer, folder, model_max_length=longest)
    shutil.copyfile(tokenizer, folder / "tokenizer.model")
    if job.chat_template is not None:
        (folder / FILE).write_text(job.chat_template, encoding="utf-8")
    ids = {f"{name}_token_id": getattr(job.tokenizer, f"{name}_id") for name in ("bos", "eos", "pad")}
    GenerationConfig(**ids, use_cache=False).save_pretrained(folder)
    (folder / "README.md").write_text(model_card(job.run, job.config, job.evaluation))
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def _config(
    run: Run, state: TrainingState, checkpoint: Path, tokenizer: Tokenizer, ema: bool, dtype: str
) -> ArmdConfig:
    settings: dict[str, Any] = run.model.model_dump() | {"pad_vocab_to": 1}
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
        dtype=dtype,
        auto_map=AUTO_MAP,
    )


def _refuse_other(out: Path, job: _Job) -> None:
    config, same = job.config, False
    with suppress(OSError, ValueError):
        found = ArmdConfig.from_pretrained(out)
        same = (found.trained, str(found.dtype)) == (config.trained, str(config.dtype))
    if not same:
        raise ExportError(f"{out}: exists and is not this export of this checkpoint; choose another folder")
    there = find_template(out)
    if job.chat_template is not None and (there is None or there[0] != job.chat_template):
        raise ExportError(f"{out}: is this export without that chat template; copy it there as {FILE}")
