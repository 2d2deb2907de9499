"""benchmarks/quality.py says what drawing tokens by their training frequencies comes to."""

from pathlib import Path

import pytest
from experiment import Folder
from quality import unigram
from quality_report import unigram_text

from armd_dist.evaluation.unigram import unigram_perplexity
from data_pipeline.stream import TokenStream


def test_each_text_has_its_own(dataset: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "tokens").symlink_to(dataset)
    (data / "zero_shot").symlink_to(dataset)
    found = unigram(Folder(tmp_path, tmp_path / "config.yaml"), 16)
    train, held_out = (TokenStream(dataset / name, 16, seed=0) for name in ("train", "held_out"))
    assert found["held_out"] == pytest.approx(unigram_perplexity(train, held_out))
    assert found["zero_shot"] == pytest.approx(unigram_perplexity(train, train))
    assert f"held-out perplexity of {found['held_out']:.0f} ({found['zero_shot']:.0f} zero-shot)" in unigram_text(found)
