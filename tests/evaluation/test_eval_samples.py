"""`armd eval --samples`: texts in each number of streams, and the page beside the figures."""

import json
from pathlib import Path

import pytest
from ranks import armd


def test_samples_and_the_page(trained: Path, dataset: Path, tmp_path: Path) -> None:
    data = ["--data", dataset / "held_out", "--windows", 8]
    asked = ["--samples", 3, "--new-tokens", 12, "--prompt-tokens", 4, "--streams", "1,3", "--out", tmp_path]
    done = armd("eval", trained, *data, *asked)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert list(found["generation"]) == ["reference", "strided_1", "strided_3"]
    assert [found["generation"][name]["passes"] for name in ("strided_1", "strided_3")] == [12, 6]
    assert found["generation"]["strided_3"]["gen_ppl"] is None, "nobody has judged"
    assert found["perplexity"]["strided_3"]["price"]["value"] > 0
    page = (tmp_path / "report.html").read_text()
    for shown in ("strided_3", f"{found['perplexity']['strided_3']['value']:.2f}", "Samples"):
        assert shown in page
    assert "entropy" in done.stdout


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ["--samples", "4", "--judge", "{nowhere}"],
            "holds no config.json; give the folder of a Hugging Face",
        ),
        (["--judge", "{nowhere}"], "reads samples; give --samples 64, say"),
        (["--samples", "4", "--new-tokens", "33"], "--new-tokens 33: 0 known tokens and 33 new ones exceed"),
        (["--samples", "4", "--new-tokens", "3", "--streams", "4"], "--streams 4: 3 new tokens have at most that many"),
        (["--samples", "4", "--top-p", "2"], "error: --top-p=2.0: use a number above 0 and up to 1"),
    ],
)
def test_what_cannot_be_written(trained: Path, dataset: Path, more: list[str], said: str, tmp_path: Path) -> None:
    """Told before anything is measured."""
    words = [word.format(nowhere=tmp_path / "nowhere") for word in more]
    done = armd("eval", trained, "--data", dataset / "held_out", "--out", tmp_path / "out", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_samples_need_held_out_text(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A text.")
    done = armd("eval", trained, "--texts", f"lines={tmp_path / 'a.txt'}", "--samples", 2)
    assert done.returncode == 2
    assert "--samples 2: are held against held-out text; give --data too" in done.stderr
