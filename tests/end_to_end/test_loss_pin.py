"""The first 20 losses of the quickstart's network on a fixed text. A change that should not change numbers keeps them.

The text is made here, because the documentation that the quickstart reads differs between releases of Python.
"""

import random
from pathlib import Path

import pytest
from ranks import armd, metrics

from data_pipeline.train_tokenizer import train_tokenizer
from data_pipeline.write_shards import build_dataset

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
PINNED = [
    7.840207, 7.619379, 7.492500, 7.302429, 7.123486, 7.014975, 6.915489, 6.754173,
    6.731390, 6.540058, 6.461771, 6.267898, 6.232865, 6.158969, 6.045025, 5.984736,
    6.126121, 6.010787, 5.990415, 6.062607,
]  # fmt: skip


def write_text(file: Path) -> None:
    """Words of a made-up language whose frequencies fall off like those of a real one."""
    draw = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(4000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    lines = (" ".join(draw.choices(words, weights, k=draw.randint(4, 14))) + ".\n" for _ in range(6000))
    file.write_text("".join(lines))


def test_losses_are_the_pinned_ones(tmp_path: Path) -> None:
    text, tokenizer = tmp_path / "text.txt", tmp_path / "tokenizer.model"
    write_text(text)
    train_tokenizer([str(text)], tokenizer, 2000)
    build_dataset([str(text)], tokenizer, tmp_path / "tokens")
    overrides = ["orders.left_to_right_steps=5", "orders.progressive_steps=8", "orders.strided_from=15"]
    done = armd(
        "train",
        QUICKSTART,
        f"run.dir={tmp_path / 'run'}",
        f"data.path={tmp_path / 'tokens' / 'train'}",
        "training.steps=20",
        "logging.wandb=disabled",
        *overrides,
    )
    assert done.returncode == 0, done.stderr
    losses = [line["loss"] for line in metrics(tmp_path / "run")]
    # To the last digits on one machine; kernels of another processor may round differently.
    assert losses == pytest.approx(PINNED, abs=2e-5), losses
