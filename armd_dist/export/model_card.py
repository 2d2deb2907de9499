"""The README of an export: what the model is, how it was trained, and how good it is."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from armd_dist.checkpoint.folder import COMPLETE, complete_checkpoints
from armd_dist.config import to_yaml
from armd_dist.errors import ExportError
from armd_dist.export.huggingface.configuration_armd import ArmdConfig
from armd_dist.orders.curriculum import phases
from armd_dist.run import Run
from data_pipeline.errors import DataError
from data_pipeline.manifest import load_manifest
from data_pipeline.remote import is_remote

CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags: [armd, masked-diffusion, text-generation]
---

# {name}

An Auto-Regressive Masked Diffusion language model (arXiv 2601.16971), trained with armd-dist.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH", trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained("PATH", trust_remote_code=True)
inputs = tokenizer("Once upon", return_tensors="pt").input_ids
tokens = model.generate(inputs, streams=4, max_new_tokens=64, do_sample=True)  # 4 strided streams, with a KV cache
print(tokenizer.decode(tokens[0], skip_special_tokens=True))
```

Plain calls behave as any causal LM (logits predict the next token; BOS stands in front, and is put there where it is
missing); `block=` gives any order.

| | |
|---|---|
| weights | {weights}, in {dtype} |
| steps | {step:,} |
| tokens seen | {tokens:,} |
| longest text trained on, tokens | {length:,} |
| dataset manifest | `{manifest}` |
| vocabulary | {vocab:,} |

## Data

{data}

## Curriculum

{curriculum}

{evaluation}## Settings of the run

```yaml
{settings}```
"""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation.json says."""

    content: dict[str, Any]

    @classmethod
    def read(cls, file: Path) -> "Evaluation":
        """Raises ExportError."""
        try:
            found = cls(json.loads(file.read_text()))
            found.markdown()
            return found
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ExportError(f"{file}: is no evaluation.json of armd eval --out ({error!r}); measure again") from error

    def markdown(self) -> str:
        """The held-out dataset's perplexities, where there is one, and those of sets of texts."""
        parts = ["## Perplexity"]
        if "perplexity" in self.content:
            length, manifest = self.content["sequence_length"], self.content["data_manifest_sha256"]
            parts += [
                f"Windows of {length:,} tokens of the dataset with manifest `{manifest}`:",
                _perplexity(self.content),
            ]
        for name, found in self.content.get("sets", {}).items():
            parts += [f"{name}, {found['documents']:,} documents:", _perplexity(found)]
        if len(parts) == 1:
            raise KeyError("perplexity")
        return "\n\n".join(parts) + "\n\n"


def _perplexity(found: dict[str, Any]) -> str:
    rows = []
    for name, one in found["perplexity"].items():
        most = "at most " if one.get("draws") else ""
        interval = "" if one["low"] is None else f"{one['low']:.2f} to {one['high']:.2f}"
        rows.append((name.replace("_", " "), f"{most}{one['value']:.2f}", interval, f"{one['tokens']:,}"))
    return _table(("order", "perplexity", "95 % interval", "tokens"), rows)


def find_evaluation(checkpoint: Path, ema: bool, given: Path | None) -> Evaluation | None:
    """The evaluation that is given, or one in the run's folder that must be of this checkpoint: it is the run's newest,
    and the evaluation was written after it. Raises ExportError where the given one is not of these weights."""
    if given is not None:
        found = Evaluation.read(given)
        if found.content.get("ema", False) != ema:
            which = "of the average" if found.content.get("ema") else "of the weights of the last step"
            raise ExportError(f"--evaluation {given}: is {which} (ema={not ema}); give one of the weights to export")
        return found
    run_dir = checkpoint.parent.parent
    if complete_checkpoints(run_dir)[-1:] != [checkpoint]:
        return None
    sealed = (checkpoint / COMPLETE).stat().st_mtime
    for file in (run_dir / "evaluation" / "evaluation.json", run_dir / "evaluation.json"):
        if file.is_file() and file.stat().st_mtime > sealed:
            found = Evaluation.read(file)
            if found.content.get("ema", False) == ema:
                return found
    return None


def model_card(run: Run, config: ArmdConfig, evaluation: Evaluation | None = None) -> str:
    """Markdown with the run's settings, without the paths of the machine that it ran on."""
    trained = config.trained
    decay = trained.get("ema_decay")
    average = f"their exponential moving average over training (decay {decay}), not those of the last step"
    return CARD.format(
        name=f"ARMD, {config.num_layers} layers of width {config.hidden_size}",
        weights="those of the last step" if decay is None else average,
        dtype=str(config.dtype or "float32").removeprefix("torch."),
        step=trained["step"],
        tokens=trained["tokens"],
        length=trained["sequence_length"],
        manifest=trained["data_manifest_sha256"],
        vocab=config.vocab_size,
        data=_data(run),
        curriculum=_curriculum(run, trained["step"]),
        evaluation="" if evaluation is None else evaluation.markdown(),
        settings=to_yaml(_without_paths(run)),
    )


def _data(run: Run) -> str:
    """Each dataset; counts where its manifest is at hand."""
    rows = []
    for number, dataset in enumerate(run.data.datasets, start=1):
        weight = ", ".join(f"{weight:g} from sample {sample:,}" for sample, weight in sorted(dataset.weight.items()))
        try:
            manifest = None if is_remote(dataset.path) else load_manifest(dataset.path)
        except DataError:
            manifest = None
        counts = ("not at hand",) * 3
        if manifest is not None:
            counts = (f"{manifest.documents:,}", f"{manifest.tokens:,}", f"`{manifest.hash()}`")
        rows.append((str(number), *counts, weight))
    return _table(("dataset", "documents", "tokens", "manifest", "weight"), rows)


def _curriculum(run: Run, step: int) -> str:
    """The phases up to the last step."""
    if run.model.network == "denoiser":
        return "None: masked tokens all along."
    rows = [
        (f"{first + 1:,} to {min(last + 1, step):,}", phase.replace("_", " "), str(rho) if rho > 1 else "")
        for first, last, phase, rho in phases(run.orders, run.training.steps)
        if first < step
    ]
    return _table(("steps", "orders", f"rho ({run.orders.rho_counts})"), rows)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _without_paths(run: Run) -> Run:
    data, resume, weights = run.data, run.checkpoint.resume, run.checkpoint.weights_from
    mixture = data.mixture and [
        dataset.model_copy(update={"path": f"DATA_{number}"}) for number, dataset in enumerate(data.mixture, start=1)
    ]
    placeholders = {"path": data.path and "DATA", "mixture": mixture, "cache_dir": data.cache_dir and "CACHE"}
    held_out = {"path": run.validation.path and "HELD_OUT"}
    return run.model_copy(
        update={
            "run": run.run.model_copy(update={"dir": "RUN"}),
            "data": data.model_copy(update=placeholders),
            "validation": run.validation.model_copy(update=held_out),
            "checkpoint": run.checkpoint.model_copy(
                update={
                    "resume": resume if resume in ("auto", "never") else "CHECKPOINT",
                    "weights_from": weights and "CHECKPOINT",
                }
            ),
        }
    )
