"""Settings of a training run: data, schedule, checkpoints, logging."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
MOST_PROFILED = 20  # a trace has every kernel of every step


class RunConfig(BaseModel):
    model_config = STRICT

    dir: str = Field(..., min_length=1, description="Folder that owns everything this run writes.")


def _from_the_start(weight: Any) -> Any:
    """A plain number is the weight from sample 0 on."""
    return {0: weight} if isinstance(weight, int | float | str) else weight


class DatasetConfig(BaseModel):
    model_config = STRICT

    path: str = Field(..., min_length=1, description="Folder of a built dataset, or its URL.")
    weight: Annotated[dict[int, float], BeforeValidator(_from_the_start)] = Field(
        ...,
        description="This dataset's share of the samples, beside the other weights: a number, or numbers from a sample "
        "of training on: {0: 3, 1000000: 1}.",
    )


class DataConfig(BaseModel):
    model_config = STRICT

    path: str | None = Field(
        None, min_length=1, description="Folder of a built dataset (armd data build writes DIR/train), or its URL."
    )
    mixture: list[DatasetConfig] | None = Field(
        None, min_length=1, description="In place of path: several datasets, each with its weight."
    )
    sequence_length: int = Field(1024, ge=1, description="Tokens per sample, BOS not counted.")
    attention: Literal["across_documents", "within_document"] = Field(
        "across_documents",
        description="How documents share a sample: as one text, or each as if it stood there alone, which keeps "
        "attention inside it and counts its places from 1.",
    )
    ledger: bool = Field(
        False, description="Append which samples each rank consumed to run.dir/ledger; armd data ledger RUN audits it."
    )

    cache_dir: str | None = Field(
        None,
        min_length=1,
        description="Where the files of URLs are kept, on a local disk; null: the user's cache folder "
        "($XDG_CACHE_HOME or ~/.cache)/armd-dist/shards. The processes of a machine share it.",
    )
    cache_gb: float = Field(
        100.0, gt=0, description="Most gigabytes (10^9 bytes) of cache_dir; the shards unused for longest make room."
    )

    @property
    def within_document(self) -> bool:
        return self.attention == "within_document"

    @property
    def datasets(self) -> list[DatasetConfig]:
        """What is read: the mixture, or the one dataset at `path`."""
        if self.path is not None:
            return [DatasetConfig(path=self.path, weight={0: 1.0})]
        return self.mixture or []


class TrainingConfig(BaseModel):
    model_config = STRICT

    steps: int = Field(..., ge=1, description="Optimizer steps; the learning-rate schedule spans them.")
    stop_at: int | None = Field(
        None,
        ge=1,
        description="Stop cleanly with a checkpoint after this step; the schedules still span training.steps.",
    )
    seed: int = Field(0, ge=0, description="Seeds initial weights, data order and generation orders.")
    global_batch_size: int = Field(512, ge=1, description="Samples per optimizer step over all processes.")
    micro_batch_size: int = Field(8, ge=1, description="Samples per forward pass of one process.")
    precision: Literal["fp32", "bf16"] = Field("bf16", description="bf16 keeps fp32 master weights.")
    compile: bool = Field(
        False,
        description="torch.compile each layer: minutes at the start for faster steps on CUDA. Megatron-core's linear "
        "layers stay outside of what is compiled.",
    )
    learning_rate: float = Field(3e-4, gt=0)
    min_learning_rate: float = Field(0.0, ge=0)
    warmup_steps: int = Field(2_500, ge=0)
    decay: Literal["constant", "cosine", "linear"] = Field("cosine", description="Shape after warm-up.")
    forward_order_rate: float = Field(
        1.0,
        gt=0,
        description="With model.learned_order: the learning rate of the head that orders a text it knows (g_phi), as a "
        "multiple of learning_rate. Its gradient is the noisier one.",
    )
    reverse_order_rate: float = Field(
        1.0,
        gt=0,
        description="The same for the head that follows it from a masked text (g_psi).",
    )
    weight_decay: float = Field(0.0, ge=0, description="Applied to matrices, not to norms.")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    adam_eps: float = Field(1e-8, gt=0)
    clip_grad: float = Field(1.0, gt=0, description="Largest global gradient norm.")
    z_loss: float = Field(
        0.0,
        ge=0,
        description="Weight of log(sum exp logits)^2, which keeps logits near zero in long runs: 1e-4.",
    )
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Keep a moving average of the weights, often the better model: each step it loses 1 - ema_decay of "
        "itself to the new weights. 0.9999 averages over some 10,000 steps; in the first ones it forgets faster. Saved "
        "in checkpoints; armd eval, generate and export take it with --ema. null: none, and no memory for it.",
    )


class ValidationConfig(BaseModel):
    model_config = STRICT

    path: str | None = Field(
        None,
        min_length=1,
        description="Folder of a built dataset that is not trained on (armd data build --held-out writes "
        "DIR/held_out); its loss, left to right, goes to metrics.jsonl as validation_loss.",
    )
    every: int = Field(500, ge=1, description="Steps between two measurements; the last step always has one.")
    batches: int = Field(4, ge=1, description="Global batches that are measured, always the same ones.")


class CheckpointConfig(BaseModel):
    model_config = STRICT

    every: int = Field(1_000, ge=1, description="Steps between checkpoints; the last step always saves one.")
    asynchronous: bool = Field(
        True, description="Write while training goes on, from a copy in host memory; false: training waits."
    )
    keep: int = Field(3, ge=1, description="Newest checkpoints that are kept.")
    keep_every: int | None = Field(
        None, ge=1, description="Checkpoints of steps that this divides are kept too; a multiple of checkpoint.every."
    )
    resume: str = Field(
        "auto",
        min_length=1,
        description="auto: continue the newest complete checkpoint of run.dir, start if there is none; "
        "never: refuse a folder that holds a run; PATH: continue from this checkpoint on purpose.",
    )
    weights_from: str | None = Field(
        None,
        min_length=1,
        description="Begin a new run with the weights of this checkpoint, or of a run's newest one, for fine-tuning: "
        "at step 0, with a fresh optimizer, under any settings but another model or tokenizer. Their average is taken "
        "where there is one (training.ema_decay). Once run.dir has a checkpoint of its own it is not read again.",
    )


class HealthConfig(BaseModel):
    model_config = STRICT

    max_skipped: int = Field(
        10,
        ge=0,
        description="Updates in a row that are skipped because the loss or the gradient norm is not finite; one more "
        "stops training. 0: the first one does.",
    )
    replicas_every: int = Field(
        1_000,
        ge=0,
        description="Steps between two comparisons of the weights that several processes hold, bit by bit; the first "
        "step of each start and each checkpoint have one too. 0: never.",
    )
    spike_factor: float | None = Field(
        10.0,
        gt=0,
        description="A loss so many times the usual deviation above the median of the last 128 is told as a spike. "
        "null: none is.",
    )
    rewind: bool = Field(
        False,
        description="After a spike go back to the newest checkpoint, and on from there with the samples behind the "
        "spike; those since the checkpoint are left out.",
    )
    max_rewinds: int = Field(3, ge=1, description="Rewinds to one checkpoint; one more stops training.")


def _as_text(value: Any) -> Any:
    """A single step is a number to YAML."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class LoggingConfig(BaseModel):
    model_config = STRICT

    every: int = Field(10, ge=1, description="Steps between printed lines where the terminal is not interactive.")
    wandb: Literal["auto", "online", "offline", "disabled"] = Field(
        "auto", description="auto: online where a key is set, else offline into run.dir."
    )
    project: str = "armd"
    profile: Annotated[str | None, BeforeValidator(_as_text)] = Field(
        None,
        description="Steps to trace with torch's profiler, counted from 1: 10-12, a few of them behind the warm-up of "
        "kernels. The first process of each pipeline stage writes run.dir/profile/steps-10-12-rank-N.json.gz, which "
        "ui.perfetto.dev and chrome://tracing open. These steps are slower. null: none.",
    )

    @property
    def profiled_steps(self) -> range | None:
        """The steps of `profile`, from 1; None where it names none."""
        found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", self.profile or "")
        return range(int(found[1]), int(found[2] or found[1]) + 1) if found else None

    def profile_fault(self, last: int) -> tuple[str, str] | None:
        """What is wrong with `profile` in a run that ends with step `last`, and what would be right."""
        steps = self.profiled_steps
        if self.profile is None:
            return None
        if not steps or steps[0] < 1:
            return "names no steps, which count from 1", "give the first and the last one: 10-12"
        if steps[-1] > last:
            return f"goes on behind step {last}, the last one", f"end at {last} or before"
        if len(steps) > MOST_PROFILED:
            return f"are {len(steps)} steps, whose trace nothing could open", f"trace {MOST_PROFILED} at most"
        return None
