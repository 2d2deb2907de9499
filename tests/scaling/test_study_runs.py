"""Running a study on this machine: what is done again, what is not, what is given up. Stand-ins train and evaluate."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from studies import evaluate, study_file, train, write_metrics

from armd_dist.scaling import local
from armd_dist.scaling.grid import PlannedRun, plan_study
from armd_dist.scaling.local import Local
from armd_dist.scaling.standing import ScalingError, divergence, run_dir, standing_of
from armd_dist.scaling.study import Study, load_study

Act = Callable[[PlannedRun, str, int], int | None]


class Stage:
    """Stand-ins for `armd train` and `armd eval`: what they leave, and how they end (None: they go on)."""

    def __init__(self, study: Study, planned: list[PlannedRun], monkeypatch: pytest.MonkeyPatch) -> None:
        self.planned, self.said = {one.name: one for one in planned}, list[str]()
        self.calls = list[tuple[str, str]]()
        self.act: Act = self.well
        self.local = Local(study, planned, self.said.append)
        monkeypatch.setattr(local, "POLL_S", 0.02)
        monkeypatch.setattr(self.local, "_start", self.start)
        monkeypatch.setattr(self.local, "_last_error", lambda name: "a reason")

    def start(self, words: list[str], name: str) -> "subprocess.Popen[Any]":
        self.calls.append((words[0], name))
        code = self.act(self.planned[name], words[0], self.calls.count((words[0], name))) if name != "prepare" else 0
        script = "import time; time.sleep(60)" if code is None else f"raise SystemExit({code})"
        return subprocess.Popen([sys.executable, "-S", "-c", script])

    def well(self, one: PlannedRun, verb: str, attempt: int) -> int | None:
        if verb == "train":
            train(one)
        else:
            evaluate(self.local.study, one, 3.0)
        return 0

    def run(self, again: bool = False) -> list[str]:
        self.calls.clear()
        self.local.run(again)
        states = {one.name: standing_of(self.local.study, one).state for one in self.planned.values()}
        return [name for name, state in states.items() if state != "complete"]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    study = load_study(study_file(tmp_path, objectives=["armd", "mdm"], depths=[2], workers=2, prepare=["data build"]))
    made = Stage(study, plan_study(study), monkeypatch)
    yield made
    assert not [task for task in made.local.live if task.process.poll() is None]


FIRST, LAST = "armd-depth2-2560t-seed0", "mdm-depth2-10240t-seed0"


def test_everything_is_trained_and_evaluated_once(stage: Stage) -> None:
    assert stage.run() == []
    assert stage.calls[0] == ("data", "prepare")
    assert sorted(stage.calls[1:]) == sorted((verb, name) for name in stage.planned for verb in ("train", "eval"))
    assert stage.run() == []
    assert stage.calls == [("data", "prepare")]


def test_another_evaluation_is_made_when_it_is_asked_for(stage: Stage) -> None:
    assert stage.run() == []
    study = stage.local.study
    measure = study.evaluation.model_copy(update={"windows": 3})
    stage.local.study = study.model_copy(update={"evaluation": measure})
    stage.act = lambda one, verb, attempt: 2
    assert stage.run() == list(stage.planned)  # the one before does not stand for it
    stage.act = stage.well
    assert stage.run() == []
    assert {verb for verb, _ in stage.calls} == {"data", "eval"}


def test_what_fails_is_tried_again_then_reported_and_the_others_go_on(stage: Stage) -> None:
    stage.act = lambda one, verb, attempt: 2 if one.name == LAST else stage.well(one, verb, attempt)
    assert stage.run() == [LAST]
    assert stage.calls.count(("train", LAST)) == 2
    assert f"{LAST}: failed: ended with 2: a reason, in attempt 2" in stage.said
    stage.act = stage.well
    assert stage.run() == []
    assert stage.calls[1:] == [("train", LAST), ("eval", LAST)]


def test_a_failure_that_passes_is_none(stage: Stage) -> None:
    stage.act = lambda one, verb, attempt: 2 if attempt == 1 and verb == "eval" else stage.well(one, verb, attempt)
    assert stage.run() == []
    assert stage.calls.count(("train", FIRST)) == 1
    assert stage.calls.count(("eval", FIRST)) == 2


def test_a_run_that_diverges_is_stopped_and_stays_so(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "CHECK_S", 0.0)

    def diverge(one: PlannedRun, verb: str, attempt: int) -> int | None:
        if one.name != FIRST:
            return stage.well(one, verb, attempt)
        write_metrics(one, [3.0] * 20 + [4.6] * 20)
        return None

    stage.act = diverge
    assert stage.run() == [FIRST]
    standing = standing_of(stage.local.study, stage.planned[FIRST])
    assert (standing.state, standing.reason) == (
        "diverged",
        "mean loss of steps 21 to 40 is 4.600, above 1.5 x 3.000",
    )
    stage.act = stage.well
    assert stage.run() == [FIRST]
    assert stage.calls == [("data", "prepare")]
    assert stage.run(again=True) == []


def test_a_kill_leaves_no_process_and_the_rest_is_done_later(stage: Stage) -> None:
    def interrupted(one: PlannedRun, verb: str, attempt: int) -> int | None:
        if len(stage.calls) == 3:
            raise KeyboardInterrupt
        return None

    stage.act = interrupted
    with pytest.raises(KeyboardInterrupt):
        stage.run()
    (task,) = stage.local.live
    assert task.process.returncode == -signal.SIGTERM
    stage.local.live.clear()
    stage.act = stage.well
    assert stage.run() == []


def test_divergence_is_seen_from_whole_chunks(stage: Stage) -> None:
    one = stage.planned[FIRST]
    assert divergence(one, 1.5) is None
    write_metrics(one, [9.0] * 5 + [3.0] * 35 + [20.0] * 19)
    assert divergence(one, 1.5) is None
    write_metrics(one, [3.0] * 20 + [None] * 9 + [3.0] * 11)
    assert divergence(one, 1.5) is None
    write_metrics(one, [3.0] * 20 + [None] * 20)
    assert divergence(one, 1.5) == "mean loss of steps 21 to 40 is not finite"


def test_a_study_of_other_settings_is_refused(stage: Stage) -> None:
    train(stage.planned[FIRST])
    written = run_dir(stage.planned[FIRST]) / "run.yaml"
    written.write_text(written.read_text().replace("learning_rate: 0.01", "learning_rate: 0.02"))
    with pytest.raises(ScalingError, match=r"other settings:\n  training.learning_rate: 0.02 -> 0.01\nchoose"):
        stage.run()


def test_two_commands_at_once_are_refused(stage: Stage) -> None:
    with stage.local._alone(), pytest.raises(ScalingError, match="another command runs this study"):
        stage.run()


def test_a_preparation_that_fails_ends_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = [sys.executable, "-S", "-c", "raise SystemExit(2)"]
    monkeypatch.setattr(stage.local, "_start", lambda words, name: subprocess.Popen(failing))
    with pytest.raises(ScalingError, match="prepare: armd data build ended with 2: a reason"):
        stage.run()


def test_the_log_names_the_error(tmp_path: Path) -> None:
    study = load_study(study_file(tmp_path, objectives=["ar"], depths=[2]))
    runner = Local(study, plan_study(study), print)
    log = Path(study.dir) / "logs" / "x.log"
    log.parent.mkdir(parents=True)
    log.write_text("error: old\n$ armd train x\nstep 1\nerror: it is full\nbye\n")
    assert runner._last_error("x") == "it is full"
    log.write_text("$ armd train x\n")
    assert runner._last_error("x") == "it said nothing"
