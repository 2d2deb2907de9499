"""The README of an export: what the model is and how it was trained."""

from armd_dist.config import to_yaml
from armd_dist.export.huggingface.configuration_armd import ArmdConfig
from armd_dist.run import Run

CARD = """---
library_name: transformers
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

Plain calls behave as any causal LM (input begins with BOS, logits predict the next token); `block=` gives any order.

| | |
|---|---|
| weights | {weights} |
| steps | {step:,} |
| tokens seen | {tokens:,} |
| longest text trained on, tokens | {length:,} |
| dataset manifest | `{manifest}` |
| vocabulary | {vocab:,} |

## Settings of the run

```yaml
{settings}```
"""


def model_card(run: Run, config: ArmdConfig) -> str:
    """Markdown with the run's settings, without the paths of the machine that it ran on."""
    trained = config.trained
    decay = trained.get("ema_decay")
    average = f"their exponential moving average over training (decay {decay}), not those of the last step"
    return CARD.format(
        name=f"ARMD, {config.num_layers} layers of width {config.hidden_size}",
        weights="those of the last step" if decay is None else average,
        step=trained["step"],
        tokens=trained["tokens"],
        length=trained["sequence_length"],
        manifest=trained["data_manifest_sha256"],
        vocab=config.vocab_size,
        settings=to_yaml(_without_paths(run)),
    )


def _without_paths(run: Run) -> Run:
    data, resume, weights = run.data, run.checkpoint.resume, run.checkpoint.weights_from
    mixture = data.mixture and [
        dataset.model_copy(update={"path": f"DATA_{number}"}) for number, dataset in enumerate(data.mixture, start=1)
    ]
    placeholders = {"path": data.path and "DATA", "mixture": mixture}
    return run.model_copy(
        update={
            "run": run.run.model_copy(update={"dir": "RUN"}),
            "data": data.model_copy(update=placeholders),
            "checkpoint": run.checkpoint.model_copy(
                update={
                    "resume": resume if resume in ("auto", "never") else "CHECKPOINT",
                    "weights_from": weights and "CHECKPOINT",
                }
            ),
        }
    )
