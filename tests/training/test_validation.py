"""The validation loss: of held-out text, always the same samples, and without effect on training."""

import gzip
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from numbered import numbered_dataset
from ranks import armd, metrics

from armd_dist.checkpoint.tensors import load_model
from armd_dist.errors import ConfigError
from armd_dist.model.layers import PlainLayers
from armd_dist.objectives.likelihood import ordered_batch
from armd_dist.orders.schemes import left_to_right
from armd_dist.parallel.topology import Topology
from armd_dist.run import Run
from armd_dist.training.start import open_data
from armd_dist.training.validation import Validation
from data_pipeline.stream import TokenStream

EVERY, BATCHES = 8, 2


@pytest.fixture(scope="module")
def measured(tiny_config: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run under a pipeline, with a validation loss."""
    folder = tmp_path_factory.mktemp("measured") / "run"
    settings = [f"validation.path={dataset / 'held_out'}", f"validation.every={EVERY}", f"validation.batches={BATCHES}"]
    settings += ["parallel.pipeline=2", "logging.profile=5-6"]
    done = armd("train", tiny_config, f"run.dir={folder}", *settings, processes=2)
    assert done.returncode == 0, done.stderr
    return folder


def test_each_stage_has_a_trace_of_the_steps_that_are_profiled(measured: Path) -> None:
    files = sorted((measured / "profile").iterdir())
    assert [file.name for file in files] == [f"steps-5-6-rank-{rank}.json.gz" for rank in (0, 1)]
    for file in files:
        with gzip.open(file) as stream:
            events = [event for event in json.load(stream)["traceEvents"] if event.get("ph") == "X"]
        names = {event["name"] for event in events}
        assert {name for name in names if re.fullmatch(r"step \d+", name)} == {"step 5", "step 6"}
        assert {"aten::mm", "Optimizer.step#Adam.step"} <= names
        (begins,), (ends,) = ([e["ts"] for e in events if e["name"] == f"step {step}"] for step in (5, 6))
        assert begins < ends


def test_it_is_measured_when_asked_for_and_at_the_end(measured: Path) -> None:
    lines = metrics(measured)
    assert [line["step"] for line in lines if "validation_loss" in line] == [8, 16, 20]
    assert lines[19]["validation_loss"] < lines[7]["validation_loss"]


def test_training_is_as_without_it(measured: Path, trained: Path) -> None:
    for here, there in zip(metrics(measured), metrics(trained), strict=True):
        assert here["loss"] == pytest.approx(there["loss"], abs=1e-5)


def test_it_is_the_loss_left_to_right_of_the_first_samples(measured: Path, dataset: Path) -> None:
    model, run, _ = load_model(measured)
    data = TokenStream(dataset / "held_out", run.data.sequence_length, run.training.seed)
    count = BATCHES * run.training.global_batch_size
    tokens = torch.from_numpy(data.samples(torch.arange(count).numpy()))
    batch = ordered_batch(tokens, [left_to_right(run.data.sequence_length)] * count, data.manifest.bos_id)
    with torch.no_grad():
        found = batch.loss_of(model(batch.layout), PlainLayers()).nll.item()
    assert metrics(measured)[-1]["validation_loss"] == pytest.approx(found, abs=1e-5)


def test_another_tokenizer_and_too_little_text_are_refused_at_once(tmp_path: Path) -> None:
    trained_on = numbered_dataset(tmp_path / "train", 800)
    held_out = numbered_dataset(tmp_path / "held_out", 80)
    _change_tokenizer(held_out)
    tree: dict[str, Any] = {
        "run": {"dir": "unused"},
        "model": {"vocab_size": 1 << 17, "max_sequence_length": 8},
        "data": {"path": str(trained_on), "sequence_length": 8},
        "training": {"steps": 10, "global_batch_size": 4, "micro_batch_size": 1},
        "validation": {"path": str(held_out), "batches": 3},
    }
    run = Run.model_validate(tree)
    with pytest.raises(ConfigError) as error:
        Validation(run, open_data(run), Topology.__new__(Topology))
    assert "made by another tokenizer than the data that is trained on" in str(error.value)
    assert (
        f"validation.batches=3: x training.global_batch_size=4 is more than the 10 windows of {held_out}; use at most 2"
        in str(error.value)
    )


def _change_tokenizer(folder: Path) -> None:
    manifest = folder / "manifest.json"
    settings = json.loads(manifest.read_text())
    other = folder / "other.model"
    shutil.copyfile(folder / settings["tokenizer"], other)
    manifest.write_text(json.dumps({**settings, "tokenizer_sha256": "1" * 64}))
