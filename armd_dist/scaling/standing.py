"""How far each run of a study is, read from its folder: who runs it, here or on Slurm, does not matter."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from armd_dist.checkpoint.folder import COMPLETE, step_folder
from armd_dist.errors import ArmdError, describe
from armd_dist.heartbeat import Heartbeat
from armd_dist.scaling.grid import PlannedRun
from armd_dist.scaling.ladder import HEADLINE
from armd_dist.scaling.study import Study
from armd_dist.training.run_folder import FREE, differences
from data_pipeline.files import write_atomically

State = Literal["complete", "trained", "running", "interrupted", "waiting", "failed", "diverged"]
CHUNK = 20  # steps whose mean loss is compared


class ScalingError(ArmdError):
    """A study that cannot go on as asked."""


@dataclass(frozen=True)
class Standing:
    """reason: why it failed or is held to have diverged. heartbeat: its last word, if any."""

    planned: PlannedRun
    state: State
    reason: str | None
    heartbeat: Heartbeat | None


@dataclass(frozen=True)
class Measured:
    """loss, low, high: held-out nats a token with their 95 % interval (None of one document). perplexity: by name,
    the part of evaluation.json. tokens_per_second: the median of the run's second half."""

    loss: float
    low: float | None
    high: float | None
    perplexity: dict[str, dict[str, Any]]
    tokens_per_second: float | None


def run_dir(planned: PlannedRun) -> Path:
    return Path(planned.run.run.dir)


def evaluation_of(planned: PlannedRun) -> Path:
    return run_dir(planned) / "evaluation"


def eval_command(study: Study, planned: PlannedRun, model: str) -> list[str]:
    """Words of `armd eval`. model: the run, or a placeholder for it."""
    measure, out = study.evaluation, evaluation_of(planned)
    words = ["eval", model, "--data", measure.data, "--out", str(out)]
    if planned.run.model.network == "armd":
        streams = measure.streams if planned.cell.objective == "armd" else [1]
        words += ["--streams", ",".join(map(str, streams))]
    elif measure.maskings is not None:
        words += ["--random-orders", str(measure.maskings)]
    return words + ([] if measure.windows is None else ["--windows", str(measure.windows)])


def standing_of(study: Study, planned: PlannedRun) -> Standing:
    """Raises ScalingError where the folder holds a run of other settings."""
    refuse_other_settings(planned)
    beat, noted = Heartbeat.read(run_dir(planned)), read_note(study, planned)
    state: State = "waiting"
    if is_evaluated(study, planned):
        state, noted = "complete", None
    elif is_trained(planned):
        state = "trained"
    elif beat is not None:
        state = "running" if beat.state == "running" and not beat.is_late else "interrupted"
    if noted is not None and state != "running":
        state = noted["state"]
    return Standing(planned, state, noted["reason"] if noted else None, beat)


def is_trained(planned: PlannedRun) -> bool:
    return (step_folder(run_dir(planned), planned.run.training.steps) / COMPLETE).exists()


def is_evaluated(study: Study, planned: PlannedRun) -> bool:
    """Of its last checkpoint, as the study asks now."""
    file = _asked_file(planned)
    asked = file.exists() and json.loads(file.read_text()) == eval_command(study, planned, "")
    return is_trained(planned) and asked and HEADLINE[planned.cell.objective] in _perplexities(planned)


def ask_evaluation(study: Study, planned: PlannedRun) -> None:
    """Before `armd eval` runs: what it was asked. An evaluation of anything else is removed."""
    words, file = eval_command(study, planned, ""), _asked_file(planned)
    if file.exists() and json.loads(file.read_text()) == words:
        return
    (evaluation_of(planned) / "evaluation.json").unlink(missing_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, (json.dumps(words) + "\n").encode())


def refuse_other_settings(planned: PlannedRun) -> None:
    written = run_dir(planned) / "run.yaml"
    if written.exists():
        changed = [line for line in differences(planned.run, written) if not line.startswith(FREE)]
        if changed:
            raise ScalingError(
                f"{run_dir(planned)}: belongs to a study with other settings:\n  "
                + "\n  ".join(changed)
                + "\nchoose another dir for the study, or remove that run's folder"
            )


def measured(planned: PlannedRun) -> Measured:
    """Of a complete run."""
    found = _perplexities(planned)
    head = found[HEADLINE[planned.cell.objective]]
    low, high = (None if head[end] is None else math.log(head[end]) for end in ("low", "high"))
    return Measured(math.log(head["value"]), low, high, found, _speed(planned))


def note(study: Study, planned: PlannedRun, state: Literal["failed", "diverged"], reason: str) -> None:
    """Leaves word of a run that was given up."""
    file = _note_file(study, planned)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, (json.dumps({"state": state, "reason": reason}) + "\n").encode())


def forget_note(study: Study, planned: PlannedRun) -> None:
    _note_file(study, planned).unlink(missing_ok=True)


def read_note(study: Study, planned: PlannedRun) -> dict[str, Any] | None:
    file = _note_file(study, planned)
    return json.loads(file.read_text()) if file.exists() else None


def divergence(planned: PlannedRun, factor: float) -> str | None:
    """Why the run is held to have diverged, or None."""
    file = run_dir(planned) / "metrics.jsonl"
    if not file.exists():
        return None
    whole = file.read_text().rpartition("\n")[0].splitlines()
    losses = [json.loads(line).get("loss") for line in whole]
    lowest = math.inf
    for first in range(0, len(losses) - CHUNK + 1, CHUNK):
        # A few that are not finite are skipped updates, which training bears.
        finite = [loss for loss in losses[first : first + CHUNK] if loss is not None]
        mean = sum(finite) / len(finite) if 2 * len(finite) > CHUNK else math.inf
        if mean > factor * lowest or mean == math.inf:
            said = "not finite" if mean == math.inf else f"{mean:.3f}, above {factor:g} x {lowest:.3f}"
            return f"mean loss of steps {first + 1} to {first + CHUNK} is {said}"
        lowest = min(lowest, mean)
    return None


def _note_file(study: Study, planned: PlannedRun) -> Path:
    return Path(study.dir) / "given_up" / f"{planned.name}.json"


def _asked_file(planned: PlannedRun) -> Path:
    return evaluation_of(planned) / "asked.json"


def _perplexities(planned: PlannedRun) -> dict[str, dict[str, Any]]:
    file = evaluation_of(planned) / "evaluation.json"
    try:
        return json.loads(file.read_text())["perplexity"] if file.exists() else {}
    except (OSError, ValueError, KeyError) as error:
        raise ScalingError(f"{file}: cannot be read ({describe(error)}); remove it, and run the study again") from error


def _speed(planned: PlannedRun) -> float | None:
    file = run_dir(planned) / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    speeds = sorted(json.loads(line)["tokens_per_second"] for line in lines[len(lines) // 2 :])
    return speeds[len(speeds) // 2] if speeds else None
