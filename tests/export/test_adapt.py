"""From an AR model of transformers to ARMD: training begins at the AR model's loss, and learns other orders."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import armd, metrics
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from armd_dist.checkpoint.tensors import load_model
from armd_dist.export.incoming.write import import_model
from armd_dist.model.network import Network
from armd_dist.objectives.likelihood import ordered_batch
from armd_dist.orders.schemes import strided
from data_pipeline.stream import TokenStream

LENGTH, BOS = 32, 2
MODEL = (
    "model.hidden_size=64",
    "model.normalization=layernorm",
    "model.bias=true",
    "model.position_embedding=learned",
    "model.query_place=previous",
    "model.num_layers=2",
    "model.two_stream_layers=1",
)


def behind_bos(windows: Tensor) -> Tensor:
    return torch.cat((torch.full((len(windows), 1), BOS), windows[:, :-1]), dim=1)


def nats(model: GPT2LMHeadModel, windows: Tensor) -> Tensor:
    logits = model(behind_bos(windows)).logits
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), windows)


@pytest.fixture(scope="module")
def pretrained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[GPT2LMHeadModel, Path]:
    """An AR model of the tests' text, of some hundred steps, and the checkpoint made of it."""
    torch.manual_seed(0)
    base, stream = tmp_path_factory.mktemp("pretrained"), TokenStream(dataset / "train", LENGTH, seed=7)
    shape = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": LENGTH, "vocab_size": 400}
    model = GPT2LMHeadModel(GPT2Config(**shape, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))
    adam = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(300):
        loss = nats(model, torch.from_numpy(stream.samples(np.arange(16 * step, 16 * step + 16))))
        adam.zero_grad()
        loss.backward()
        adam.step()
    model.eval().requires_grad_(False).save_pretrained(base / "published")
    shutil.copyfile(dataset / "train" / "tokenizer.model", base / "published" / "tokenizer.model")
    import_model(base / "published", base / "imported")
    return model, base / "imported"


def strided_nats(network: Network, windows: Tensor) -> float:
    return ordered_batch(windows, [strided(LENGTH, 4)] * len(windows), BOS).loss(network).nll.item()


def test_training_goes_on_from_the_ar_model(
    pretrained: tuple[GPT2LMHeadModel, Path], dataset: Path, tiny_config: Path, tmp_path: Path
) -> None:
    """On two processes that split each matrix and its bias."""
    model, checkpoint = pretrained
    run = tmp_path / "run"
    settings = (f"run.dir={run}", f"checkpoint.weights_from={checkpoint}", *MODEL, "parallel.tensor=2")
    done = armd("train", tiny_config, *settings, "training.learning_rate=2e-3", processes=2)
    assert done.returncode == 0, done.stderr
    assert "model.two_stream_layers: 0 -> 1" in done.stdout + done.stderr
    first = torch.from_numpy(TokenStream(dataset / "train", LENGTH, seed=0).samples(np.arange(8)))
    curve = [line["loss"] for line in metrics(run)]
    assert curve[0] == pytest.approx(nats(model, first).item(), abs=1e-4)
    assert curve[0] < math.log(400) - 1.5
    held_out = TokenStream(dataset / "held_out", LENGTH, seed=0)
    windows = torch.from_numpy(held_out.windows(np.arange(held_out.num_windows)))
    before, after = (load_model(path)[0] for path in (run / "checkpoints" / "step-00000005", run))
    assert strided_nats(after, windows) < strided_nats(before, windows) - 0.05
    assert strided_nats(after, windows) < math.log(400) - 1.0


def test_another_network_is_refused(
    pretrained: tuple[GPT2LMHeadModel, Path], tiny_config: Path, tmp_path: Path
) -> None:
    _, checkpoint = pretrained
    others = [word for word in MODEL if "bias" not in word and "query_place" not in word]
    settings = (f"run.dir={tmp_path / 'run'}", f"checkpoint.weights_from={checkpoint}", *others)
    done = armd("train", tiny_config, *settings)
    assert done.returncode == 2
    assert "model.bias=False: the weights of" in done.stderr
    assert "use model.query_place=previous" in done.stderr
