"""Perplexity with attention within documents is that of each document by itself; reports and checkpoints say so."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from full_pass import window_nll
from ranks import armd
from scored import any_orders, evaluate, strided
from toys import tiny_config, tiny_model

from armd_dist.evaluation.schemes import Masked
from armd_dist.export.open import open_model
from armd_dist.export.write import export_checkpoint
from armd_dist.model.armd import ARMD
from armd_dist.model.denoiser import Denoiser
from armd_dist.model.initialization import initialize
from armd_dist.model.layers import PlainLayers
from armd_dist.orders import schemes
from data_pipeline.manifest import load_manifest
from data_pipeline.stream import TokenStream
from data_pipeline.train_tokenizer import train_tokenizer
from data_pipeline.write_shards import build_dataset

LENGTH = 24


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short documents, several in a window."""
    folder = tmp_path_factory.mktemp("short")
    pages = folder / "pages.jsonl"
    words = [f"word{number} {'stone' * (number % 3)} river" for number in range(150)]
    pages.write_text("".join(json.dumps({"text": text}) + "\n" for text in words))
    tokenizer = train_tokenizer([str(pages)], folder / "tokenizer.model", 300).path
    build_dataset([str(pages)], tokenizer, folder / "data")
    return folder / "data" / "train"


@pytest.fixture(scope="module")
def stream(data: Path) -> TokenStream:
    return TokenStream(data, LENGTH, seed=0)


@pytest.fixture(scope="module")
def model(stream: TokenStream) -> ARMD:
    return tiny_model(vocab_size=stream.manifest.vocab_size, num_layers=2, init_std=0.1)


def documents(window: np.ndarray, eos_id: int) -> list[np.ndarray]:
    """The window, cut behind each end of document."""
    parts = np.split(window, np.flatnonzero(window == eos_id) + 1)
    return [part for part in parts if len(part)]


def test_left_to_right_is_every_document_by_itself(model: ARMD, stream: TokenStream) -> None:
    nats, count = 0.0, 0
    for window in stream.windows(np.arange(5)):
        for document in documents(window, stream.manifest.eos_id):
            at = torch.arange(1, len(document) + 1)
            nats += window_nll(model, torch.from_numpy(document)[None], at, at, stream.manifest.bos_id).sum().item()
            count += 1
    assert count > 10
    found = evaluate(model, stream, strided(1), windows=5, within_document=True)
    assert found.value == pytest.approx(math.exp(nats / (5 * LENGTH)), rel=1e-9)
    assert evaluate(model, stream, strided(1), windows=5).value != pytest.approx(found.value, rel=1e-3)


def test_strided_nats_stand_where_the_order_puts_them(model: ARMD, stream: TokenStream) -> None:
    """Heads are told from the rest by storage: each token's nats are those of its document alone."""
    order, window = schemes.strided(LENGTH, 3), stream.window(0)
    places, blocks = torch.from_numpy(order.position), torch.from_numpy(order.block)
    bos_id, eos_id = stream.manifest.bos_id, stream.manifest.eos_id
    nll = window_nll(model, torch.from_numpy(window)[None], places, blocks, bos_id, eos_id)[0]
    start = 0
    for document in documents(window, eos_id):
        mine = (places > start) & (places <= start + len(document))
        alone = window_nll(model, torch.from_numpy(document)[None], places[mine] - start, blocks[mine], bos_id)[0]
        torch.testing.assert_close(nll[mine], alone, rtol=0, atol=1e-10)
        start += len(document)


def test_bounds_follow(model: ARMD, stream: TokenStream) -> None:
    config = tiny_config(network="denoiser", vocab_size=stream.manifest.vocab_size, num_layers=2, init_std=0.1)
    denoiser = Denoiser(config, PlainLayers())
    initialize(denoiser, config, seed=0)
    denoiser = denoiser.double().eval()
    orders = [evaluate(model, stream, any_orders(2), 3, within_document=apart).value for apart in (False, True)]
    maskings = [
        evaluate(denoiser, stream, Masked("block_diffusion", 4, 2), 3, within_document=apart).value
        for apart in (False, True)
    ]
    for across, within in (orders, maskings):
        assert across != pytest.approx(within, rel=1e-4)


def test_a_run_is_measured_as_it_was_trained(data: Path, tiny_config: Path, tmp_path: Path) -> None:
    """`armd train`, `armd eval` of the run and of its export: the setting travels with the weights."""
    vocab = load_manifest(data).vocab_size
    settings = [f"data.path={data}", f"model.vocab_size={vocab}", "data.attention=within_document"]
    run = tmp_path / "run"
    done = armd("train", tiny_config, f"run.dir={run}", *settings, "training.stop_at=2")
    assert done.returncode == 0, done.stderr
    export_checkpoint(run, tmp_path / "export")
    assert open_model(tmp_path / "export").within_document
    done = armd("eval", run, "--data", data, "--streams", "1", "--windows", "4", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written["attention"] == "within_document"
    assert "data.attention=within_document" in done.stdout
    network = open_model(run).network
    assert isinstance(network, ARMD)
    stream = TokenStream(data, network.config.max_sequence_length, seed=0)
    found = evaluate(network, stream, strided(1), windows=4, within_document=True)
    assert written["perplexity"]["left_to_right"]["value"] == pytest.approx(found.value, rel=1e-9)
