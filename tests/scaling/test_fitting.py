"""From a study's folder to its laws, its figures and its page."""

import csv
import json
import math
from pathlib import Path

import pytest
from studies import evaluate, finish, study_file, train
from typer.testing import CliRunner

from armd_dist.cli.main import app
from armd_dist.scaling.fitting import fit_study
from armd_dist.scaling.grid import PlannedRun, plan_study
from armd_dist.scaling.standing import ScalingError, note
from armd_dist.scaling.study import Study, load_study

SLICES = {"flops": [1.0e10, 2.0e10, 4.0e10]}


def made(folder: Path, **changes: object) -> tuple[Study, list[PlannedRun]]:
    study = load_study(study_file(folder, **changes))
    return study, plan_study(study)


def test_too_few_runs_are_refused_with_what_was_left_out(tmp_path: Path) -> None:
    study, planned = made(tmp_path, objectives=["ar"])
    finish(study, planned[:5])
    note(study, planned[5], "diverged", "mean loss of steps 21 to 40 is not finite")
    train(planned[6])
    with pytest.raises(ScalingError) as caught:
        fit_study(study, planned)
    assert str(caught.value).splitlines() == [
        "ar: 5 complete runs do not tell the 5 numbers of a law and how far off they are; finish at least 6",
        f"  left out: {planned[5].name} diverged: mean loss of steps 21 to 40 is not finite",
        f"  left out: {planned[6].name} is not evaluated",
        f"  left out: {planned[7].name} has not begun",
        f"  left out: {planned[8].name} has not begun",
    ]


def test_two_sizes_are_too_few(tmp_path: Path) -> None:
    study, planned = made(tmp_path, objectives=["ar"], depths=[2, 3])
    finish(study, planned)
    with pytest.raises(ScalingError, match="2 sizes do not tell a power from a constant"):
        fit_study(study, planned)


def test_one_series_of_several_may_be_fitted(tmp_path: Path) -> None:
    study, planned = made(tmp_path, objectives=["ar", "mdm"])
    finish(study, [one for one in planned if one.cell.objective == "mdm"])
    content = fit_study(study, planned)
    assert list(content["series"]) == ["mdm"]
    assert content["series"]["mdm"]["bound"]
    assert content["series"]["mdm"]["ar_ratio"] == []
    assert "0 complete runs" in content["refused"]["ar"]


def test_a_held_out_run_is_predicted_and_not_fitted(tmp_path: Path) -> None:
    study, planned = made(tmp_path, objectives=["ar"], held_out=[{"depth": 6, "tokens": 20480}])
    finish(study, planned[:-1])
    (before,) = fit_study(study, planned)["series"]["ar"]["predictions"]
    assert (before["loss"], before["error"]) == (None, None)
    assert before["low"] < before["predicted"] < before["high"]
    train(planned[-1])
    evaluate(study, planned[-1], 7.0)
    content = fit_study(study, planned)["series"]["ar"]
    (after,) = content["predictions"]
    assert after["predicted"] == before["predicted"]
    assert after["error"] == pytest.approx(after["predicted"] / 7.0 - 1)
    assert len(content["points"]) == 9


def test_report_has_every_figure_with_its_data(tmp_path: Path) -> None:
    study, planned = made(tmp_path, depths=[2, 3, 4, 5], budgets=SLICES)
    finish(study, planned)
    file = str(tmp_path / "study.yaml")
    told = CliRunner().invoke(app, ["scaling", "fit", file])
    assert told.exit_code == 0, told.output
    assert "mdm (bound)" in told.stdout
    assert "armd: AR needs" in told.stdout
    assert "at least, as its loss is a bound" in told.stdout
    assert "armd: isoFLOP slice 1e+10: " in told.stdout
    done = CliRunner().invoke(app, ["scaling", "report", file])
    assert done.exit_code == 0, done.output
    folder = Path(study.dir)
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert "mdm (bound)" in page
    for name in ("loss", "isoflop", "exponents", "streams", "speed"):
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f'href="figures/{name}.csv"' in page
    content = json.loads((folder / "fit.json").read_text())
    rows = list(csv.DictReader((folder / "figures" / "loss.csv").open()))
    runs = {row["run"]: float(row["loss"]) for row in rows if row["kind"] == "run"}
    assert runs == {point["run"]: point["loss"] for one in content["series"].values() for point in one["points"]}
    streams = list(csv.DictReader((folder / "figures" / "streams.csv").open()))
    assert {(row["parameters"], row["streams"]) for row in streams} == {
        (str(one.parameters), each) for one in planned if one.cell.objective == "armd" for each in ("1", "2")
    }
    ratio = content["series"]["armd"]["ar_ratio"][1]
    assert ratio["low"] <= ratio["value"] <= (ratio["high"] or math.inf)


def test_status_says_how_far_each_run_is(tmp_path: Path) -> None:
    study, planned = made(tmp_path, objectives=["mdm"], depths=[2])
    finish(study, planned[:1])
    train(planned[1])
    note(study, planned[2], "failed", "ended with 2: no data")
    shown = CliRunner().invoke(app, ["scaling", "status", str(tmp_path / "study.yaml")])
    assert shown.exit_code == 0, shown.output
    lines = {line.split()[0]: line for line in shown.stdout.splitlines() if line.strip().startswith("mdm")}
    assert "complete" in lines[planned[0].name]
    assert "held out, a bound" in lines[planned[0].name]
    assert "trained" in lines[planned[1].name]
    assert "failed" in lines[planned[2].name]
    assert "no data" in lines[planned[2].name]
