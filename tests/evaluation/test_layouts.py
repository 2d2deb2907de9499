"""`armd eval` on one process and on several, whole and killed on the way: one set of figures."""

import json
from pathlib import Path
from typing import Any

import pytest
from ranks import armd, kill_when

TEXTS = [
    "The value of the expression.",
    "a = [1, 2, 3]",
    "Statements are executed one after another.",
    "x",
    "for y in z",
]
SCHEMES = ("--streams", "1,2,4", "--blocks", "3", "--random-orders", 2, "--dtype", "float64", "--batch-size", 3)


@pytest.fixture(scope="module")
def asked(trained: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    texts = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    lines = [{"text": text} for text in TEXTS] + [{"prompt": "Behind a context", "completion": " stands this."}]
    texts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ["eval", trained, "--data", dataset / "held_out", "--windows", 40, "--texts", f"jsonl={texts}", *SCHEMES]


@pytest.fixture(scope="module")
def alone(asked: list[object], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return evaluated(asked, tmp_path_factory.mktemp("alone"))


def evaluated(asked: list[object], out: Path, *more: object, processes: int | None = None) -> dict[str, Any]:
    done = armd(*asked, "--out", out, *more, processes=processes)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("strided_4") == 2, "a table for the windows and one for the texts, from one process"
    return json.loads((out / "evaluation.json").read_text())


def figures(found: dict[str, Any]) -> dict[str, float]:
    """Every number of it, by its path."""
    made: dict[str, float] = {}
    for name, value in found.items():
        if isinstance(value, dict):
            made |= {f"{name}.{path}": number for path, number in figures(value).items()}
        elif isinstance(value, float | int):
            made[name] = value
    return made


@pytest.mark.parametrize("processes", [2, 4])
def test_every_world_size_has_the_same_figures(
    asked: list[object], alone: dict[str, Any], processes: int, tmp_path: Path
) -> None:
    assert evaluated(asked, tmp_path, processes=processes) == alone


@pytest.mark.parametrize("layout", [("--tensor-parallel", 2), ("--pipeline-parallel", 2)], ids=["tensor", "pipeline"])
def test_every_layout_has_the_same_figures(
    asked: list[object], alone: dict[str, Any], layout: tuple[object, ...], tmp_path: Path
) -> None:
    found = evaluated(asked, tmp_path, *layout, processes=2)
    assert figures(found) == pytest.approx(figures(alone), rel=1e-9)
    assert len(figures(found)) > 80


def test_a_killed_evaluation_goes_on(asked: list[object], alone: dict[str, Any], tmp_path: Path) -> None:
    """On another number of processes; what was scored stays, a torn line is scored again."""
    out = tmp_path / "out"
    kill_when([*asked, "--out", out], out / "scores.jsonl", step=4, processes=2)
    before = (out / "scores.jsonl").read_bytes()
    whole = before.rfind(b"\n") + 1
    assert not (out / "evaluation.json").exists()
    (out / "scores.jsonl").write_bytes(before[:whole] + b'{"key": "torn')
    assert evaluated(asked, out) == alone
    after = (out / "scores.jsonl").read_bytes()
    assert after.startswith(before[:whole])
    assert len(after.splitlines()) == len({line[:60] for line in after.splitlines()}), "no batch is scored twice"
    assert evaluated(asked, out) == alone
    assert (out / "scores.jsonl").read_bytes() == after, "nothing is left to score"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--streams", "64"], "error: --streams 64: sequences of 32 tokens have at most that many streams"),
        (["--streams", "0"], "error: --streams 0: is not a list of positive numbers; write --streams 1,2,4"),
        (["--stride", "33"], "error: --stride 33: leaves out what stands between windows of 32; use at most 32"),
        (["--tensor-parallel", "3"], "error: --tensor-parallel=3: tensor 3 x pipeline 1 does not divide the 1 process"),
        (["--texts", "nonsense"], "error: --texts nonsense: is neither a YAML of sets nor FORMAT=FILE with one of"),
        (["--texts", "lines=/nowhere"], "error: --texts /nowhere: cannot be read"),
    ],
)
def test_what_cannot_be_measured(asked: list[object], more: list[str], said: str, tmp_path: Path) -> None:
    done = armd(*asked[:4], *more, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "evaluation.json").exists()


def test_a_device_for_several_processes_is_refused(asked: list[object]) -> None:
    done = armd(*asked[:4], "--device", "cpu", processes=2)
    assert done.returncode != 0
    assert "error: --device cpu: under torchrun each process takes its own; leave it out" in done.stderr


def test_an_export_on_a_layout_is_refused(trained: Path, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    done = armd("eval", tmp_path, "--data", dataset / "held_out", "--tensor-parallel", 2, processes=2)
    assert done.returncode != 0
    assert "an export is read whole by each process; give the checkpoint, or leave out --tensor-parallel" in done.stderr
