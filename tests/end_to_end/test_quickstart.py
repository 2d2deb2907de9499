"""`make quickstart` does what README says, learns, and may be typed again."""

import json
from pathlib import Path

from quickstarts import Quickstart


def evaluation(folder: Path) -> dict[str, dict[str, float]]:
    return json.loads((folder / "evaluation" / "evaluation.json").read_text())["perplexity"]


def test_it_ends_with_a_table_a_sample_and_the_paths(quickstart: Quickstart) -> None:
    for text in ("What you have just seen", "unigram distribution", "A sample, 4 streams", "report.html"):
        assert text in quickstart.output


def test_it_learns(quickstart: Quickstart) -> None:
    folder = quickstart.folder / "runs" / "quickstart"
    baselines = json.loads((folder / "evaluation" / "baselines.json").read_text())
    found = evaluation(folder)
    assert found["left_to_right"]["value"] < 0.4 * baselines["unigram"] < baselines["untrained"]
    assert found["strided_4"]["value"] < 0.5 * baselines["unigram"]
    for name in ("left_to_right", "strided_2", "strided_4"):
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]
        assert {"tokens", "heads", "parallel"} <= set(found[name])


def test_both_layouts_have_trained_one_curve(quickstart: Quickstart) -> None:
    folder = quickstart.folder / "runs" / "quickstart"
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))
    topologies = [json.loads(file.read_text())["topology"] for file in sorted(folder.glob("checkpoints/*/state.json"))]
    assert topologies[0] == {"world_size": 2, "tensor": 2, "pipeline": 1, "data": 1}
    assert topologies[-1] == {"world_size": 2, "tensor": 1, "pipeline": 1, "data": 2}


def test_report_opens_without_a_network(quickstart: Quickstart) -> None:
    page = (quickstart.folder / "runs" / "quickstart" / "report.html").read_text()
    assert page.count("<svg") == 2
    for word in ("<script", "<link", 'src="http', "@import"):
        assert word not in page
    assert "S = 4 streams" in page


def test_wandb_keeps_an_offline_run(quickstart: Quickstart) -> None:
    assert list((quickstart.folder / "runs" / "quickstart" / "wandb").glob("offline-run-*/run-*.wandb"))


def test_again_it_resumes_and_leaves_what_is_done(quickstart: Quickstart) -> None:
    metrics = quickstart.folder / "runs" / "quickstart" / "metrics.jsonl"
    before = metrics.read_text()
    done = quickstart.make("quickstart")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing to do" in done.stderr
    assert "$ armd eval" in quickstart.output
    assert "$ armd eval" not in done.stdout
    assert metrics.read_text() == before
