"""What several rooms' tests start from."""

import json
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from ranks import armd

from data_pipeline.train_tokenizer import train_tokenizer
from data_pipeline.write_shards import build_dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset of real text with a vocabulary of 400: DATASET/train and DATASET/held_out."""
    folder = tmp_path_factory.mktemp("dataset")
    text = folder / "text.jsonl"
    text.write_text("".join(json.dumps({"text": topic}) + "\n" for topic in _topics()))
    tokenizer = folder / "tokenizer.model"
    train_tokenizer([str(text)], tokenizer, 400)
    build_dataset([str(text)], tokenizer, folder / "tokens", held_out=0.2)
    return folder / "tokens"


@pytest.fixture(scope="session")
def tiny_config(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 steps that passes through every phase of the curriculum."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY.format(data=dataset / "train"))
    return path


@pytest.fixture(scope="session")
def trained(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the tiny run, trained to its end on one process. Read it; do not write into it."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    done = armd("train", tiny_config, f"run.dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


def _topics() -> list[str]:
    return [topics[name] for name in sorted(topics)][:30]


TINY = """
run: {{dir: runs/tiny}}
model:
  vocab_size: 400
  max_sequence_length: 32
  hidden_size: 32
  num_layers: 3
  num_attention_heads: 4
  two_stream_layers: 2
  init_std: 0.1
data: {{path: {data}, sequence_length: 32}}
orders: {{left_to_right_steps: 4, progressive_steps: 8, rho_max: 4, strided_from: 14, strided_streams: [1, 2, 4]}}
training:
  steps: 20
  global_batch_size: 8
  micro_batch_size: 2
  precision: fp32
  learning_rate: 1.0e-2
  warmup_steps: 4
  clip_grad: 0.5
checkpoint: {{every: 5, keep: 10}}
logging: {{wandb: disabled}}
"""
