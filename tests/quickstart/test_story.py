"""The end of the story, and what of it is done again."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from armd_dist.checkpoint.folder import COMPLETE, step_folder
from armd_dist.orders.curriculum import LEFT_TO_RIGHT, MIXTURE, PROGRESSIVE, STRIDED
from armd_dist.quickstart import story
from armd_dist.quickstart.report import PHASE_COLOURS, Story


def test_a_sample_is_shown_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = "see [/usr/lib], [bold]x[/bold] and [0]"
    told = cast(Story, SimpleNamespace(rows=list, samples={4: sample}))
    story._show(tmp_path / "[/run]", told, tmp_path / "report.html", 1.0)
    shown = capsys.readouterr().out
    assert sample in shown
    assert "[/run]" in shown


def test_every_phase_is_drawn() -> None:
    assert set(PHASE_COLOURS) == {LEFT_TO_RIGHT, PROGRESSIVE, MIXTURE, STRIDED}


def test_commands_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    story._run(["true"], shown=["armd", "data.path=[/x]"])
    assert capsys.readouterr().out == "$ armd data.path=[/x]\n"


def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    asked: list[Any] = []
    monkeypatch.setattr(story, "_armd", lambda *words: asked.append(words))
    return asked


def test_an_evaluation_is_repeated_for_a_newer_checkpoint_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = evaluations(monkeypatch)
    run, out = tmp_path / "run", tmp_path / "run" / "evaluation"
    checkpoint, later = step_folder(run, 10), step_folder(run, 20)
    out.mkdir(parents=True)
    for folder, hour in ((checkpoint, 1), (later, 3)):
        folder.mkdir(parents=True)
        (folder / COMPLETE).write_text(json.dumps({}))
        os.utime(folder / COMPLETE, (hour * 3600, hour * 3600))
    (out / "evaluation.json").touch()
    os.utime(out / "evaluation.json", (2 * 3600, 2 * 3600))
    story._evaluate(checkpoint, tmp_path, out)
    assert not asked, "the checkpoint is older, though its run has gone on and its folder has just been made"
    story._evaluate(run, tmp_path, out)
    assert len(asked) == 1
