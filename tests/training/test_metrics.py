"""metrics.jsonl across restarts, and where wandb goes."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from ranks import on_ranks

from armd_dist.training.curves import Curves, _has_wandb_key
from armd_dist.training.metrics import forget_after


def test_lines_of_steps_that_will_be_repeated_are_dropped(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(1, 8)) + '{"step": 8, "lo')
    forget_after(file, 5)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2, 3, 4, 5]
    assert list(tmp_path.iterdir()) == [file]


def test_wandb_key_is_found_in_the_environment_and_in_netrc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert not _has_wandb_key()
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password key\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert _has_wandb_key()
    (tmp_path / ".netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert _has_wandb_key()


def test_a_slow_upload_at_the_end_is_no_hang(tiny_config: Path, tmp_path: Path) -> None:
    """All processes have left the watch and each other when it begins; the folder is still this job's."""
    run_dir = tmp_path / "run"
    changes = [f"run.dir={run_dir}", "training.stop_at=2", "logging.wandb=offline"]
    on_ranks(Path(__file__).with_name("slow_upload.py"), tiny_config, *changes)
    assert json.loads((run_dir / "seen.json").read_text()) == ["finished", False, True]
    assert list((run_dir / "wandb").glob("offline-run-*/run-*.wandb"))


def test_what_could_not_be_uploaded_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    def finish() -> None:
        raise TimeoutError

    with Curves() as curves:
        curves.wandb = SimpleNamespace(dir="runs/mine/wandb/run-1/files", finish=finish)
    said = "warning: wandb: not all was uploaded in 60 s; `wandb sync runs/mine/wandb/run-1` does the rest\n"
    assert capsys.readouterr().err == said
