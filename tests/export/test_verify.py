"""An export that is not its checkpoint never appears; what one is compared on, in which type, and what it needs."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from disks import small_disk
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from armd_dist.checkpoint.tensors import load_model
from armd_dist.cli.main import app
from armd_dist.config import load_run
from armd_dist.errors import ArmdError, CheckpointError, ConfigError, ExportError
from armd_dist.export import write
from armd_dist.export.open import open_model
from armd_dist.export.verify import FIXED, find_text
from armd_dist.export.write import export_checkpoint
from data_pipeline.tokenizer import Tokenizer


def test_bfloat16_is_the_checkpoint_rounded(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "half"
    done = CliRunner().invoke(
        app, ["export", str(trained), str(out), "--dtype", "bfloat16", "--max-shard-size", "20KB"]
    )
    assert done.exit_code == 0, done.exception
    told = " ".join(done.stdout.split())
    assert "it equals the checkpoint's weights in bfloat16 on 4 windows of" in told
    assert "/held_out: logits within" in told
    assert "(float32: " in told
    assert len(list(out.glob("model-*.safetensors"))) > 1
    wanted, found = load_model(trained)[0].state_dict(), open_model(out).network.state_dict()
    assert wanted.keys() == found.keys()
    assert all(torch.equal(found[name], weight.bfloat16().float()) for name, weight in wanted.items())
    with pytest.raises(ExportError, match="is not this export of this checkpoint"):
        export_checkpoint(trained, out)
    assert export_checkpoint(trained, out, dtype="bfloat16") is None


def flip_a_token(folder: Path) -> None:
    """One row of the embedding, by half a percent."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["armd.tokens.weight"][300] *= 1.005
    save_file(weights, file, {"format": "pt"})


def change_a_source(folder: Path) -> None:
    """Decoding alone is another one."""
    file = folder / "sampling.py"
    file.write_text(file.read_text().replace("wide.argmax(-1)", "wide.argmin(-1)"))


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (flip_a_token, "logits differ by "),
        (change_a_source, "greedy tokens of 1 streams differ from token 1 on"),
        (lambda folder: (folder / "rotary.py").unlink(), r"transformers cannot load it \("),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"nothing"), r"transformers cannot load it \("),
    ],
)
def test_what_differs_never_appears(
    harm: Callable[[Path], None], problem: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, partial, whole = tmp_path / "out", tmp_path / ".out.partial", write._write

    def harmed(job: write._Job, folder: Path, told: Callable[[int, int], object]) -> None:
        whole(job, folder, told)
        harm(folder)

    with monkeypatch.context() as patched:
        patched.setattr(write, "_write", harmed)
        with pytest.raises(ExportError, match=problem) as raised:
            export_checkpoint(trained, out)
    assert str(raised.value).startswith(f"{partial}: is not the checkpoint")
    assert (partial / "model.safetensors").is_file()
    assert not out.exists()
    assert export_checkpoint(trained, out)
    assert not partial.exists()


def test_nothing_is_loaded_where_nobody_asks(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "verify", None)
    done = CliRunner().invoke(app, ["export", str(trained), str(tmp_path / "out"), "--no-verify"])
    assert done.exit_code == 0, done.exception
    assert "not compared with the checkpoint (--no-verify)" in " ".join(done.stdout.split())


def test_text_is_held_out_text_where_it_is_at_hand(trained: Path, dataset: Path, tmp_path: Path) -> None:
    run, tokenizer = load_run(trained / "run.yaml"), Tokenizer.load(trained / "tokenizer.model")
    ids, text = find_text(run, tokenizer)
    assert (ids.shape, text) == ((4, 32), f"4 windows of {dataset / 'held_out'}")
    for data, validation, wanted in (
        (str(dataset / "train"), str(dataset / "train"), f"4 windows of {dataset / 'train'}"),
        (str(tmp_path / "gone" / "train"), None, FIXED),
        ("http://127.0.0.1:9/train", None, FIXED),
    ):
        elsewhere = run.model_copy(
            update={
                "data": run.data.model_copy(update={"path": data}),
                "validation": run.validation.model_copy(update={"path": validation}),
            }
        )
        ids, text = find_text(elsewhere, tokenizer)
        assert (ids.shape, text) == ((4, 32), wanted)


def test_room_is_looked_for_before(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=60_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    rule = r"needs 0\.07 GB, and its disk has 0\.06 GB free; make room"
    with pytest.raises(ExportError, match=rule):
        export_checkpoint(trained, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_leaves_nothing(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "SMALL_FILES", 0)
    with small_disk(tmp_path / "disk", "120k") as disk:
        monkeypatch.setattr(write, "_require_room", lambda *_: None)
        with pytest.raises(ExportError, match=r"out: cannot be written \(.*No space left on device\)"):
            export_checkpoint(trained, disk / "out")
        assert list(disk.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "kind", "problem"),
    [
        (["--max-shard-size", "much"], ConfigError, "--max-shard-size=much: is no size of a file"),
        (["--evaluation", "nowhere.json"], ExportError, "nowhere.json: is no evaluation.json"),
        (["--ema"], CheckpointError, "holds no average of the weights"),
    ],
)
def test_what_cannot_be_asked_for_is_told(
    words: list[str], kind: type[ArmdError], problem: str, trained: Path, tmp_path: Path
) -> None:
    error = CliRunner().invoke(app, ["export", str(trained), str(tmp_path / "out"), *words]).exception
    assert isinstance(error, kind)
    assert problem in str(error)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_lacks_a_file_is_refused(trained: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(trained / "checkpoints" / "step-00000020", tmp_path / "step-00000020"))
    file = next((copy / "state").glob("*.distcp"))
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match=r"distcp has .* bytes instead of .*; export another checkpoint"):
        export_checkpoint(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()
