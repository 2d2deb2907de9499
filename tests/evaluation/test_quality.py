"""All of generative quality together: every number of streams beside held-out text, with a judge and without."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from armd_dist.errors import EvaluationError
from armd_dist.evaluation.diversity import diversity
from armd_dist.evaluation.generative_perplexity import perplexity, read
from armd_dist.evaluation.held_out import held_out_texts, references
from armd_dist.evaluation.judge import Judge, open_judge
from armd_dist.evaluation.mauve_score import INSTALL, mauve, why_no_mauve
from armd_dist.evaluation.quality import Quality, evaluate_generation
from armd_dist.evaluation.samples import Asked, draw
from armd_dist.export.open import open_armd
from armd_dist.export.write import export_checkpoint
from armd_dist.model.armd import ARMD
from data_pipeline.stream import TokenStream
from data_pipeline.tokenizer import Tokenizer

ASKED = Asked(count=6, new_tokens=16, prompt_tokens=4)


@pytest.fixture(scope="module")
def judge(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """The model that wrote the texts judges them too, through its export."""
    out = tmp_path_factory.mktemp("quality") / "export"
    assert export_checkpoint(trained, out)
    return open_judge(out, trust_remote_code=True)


@pytest.fixture(scope="module")
def model(judge: Judge) -> tuple[ARMD, Tokenizer]:
    return open_armd(Path(judge.path))


@pytest.fixture(scope="module")
def stream(dataset: Path) -> TokenStream:
    return TokenStream(dataset / "held_out", 32, seed=0)


@pytest.fixture(scope="module")
def found(model: tuple[ARMD, Tokenizer], stream: TokenStream, judge: Judge) -> tuple[Quality, int]:
    done: list[int] = []
    quality = evaluate_generation(*model, stream, [1, 4], ASKED, judge, done.append)
    return quality, sum(done)


def test_every_number_is_that_of_its_part(
    found: tuple[Quality, int], model: tuple[ARMD, Tokenizer], stream: TokenStream, judge: Judge
) -> None:
    quality, done = found
    assert list(quality) == ["reference", "strided_1", "strided_4"]
    assert done == 6 * (2 + 3), "texts written at two numbers of streams, and judged with the reference"
    texts = held_out_texts(stream, ASKED)
    drawn = draw(*model, texts[:, :4], 4, ASKED)
    for name, samples in (("reference", references(texts, ASKED, model[1])), ("strided_4", drawn.samples)):
        value, low, high = perplexity(read(judge, samples))
        told = quality[name]["gen_ppl"]
        assert (told["value"], told["low"], told["high"]) == pytest.approx((value, low, high), rel=1e-6)
        assert (told["judge"], told["judge_dtype"], told["truncated"]) == (judge.path, "float32", 0)
        assert quality[name]["entropy"] == diversity([one.tokens for one in samples]).entropy
        assert quality[name]["examples"] == [one.prompt + "\n\n".join(one.texts) for one in samples[:3]]
        assert (quality[name]["samples"], quality[name]["new_tokens"]) == (6, 16)
    assert [quality[f"strided_{s}"]["passes"] for s in (1, 4)] == [16, 4 + 4 - 1]
    assert quality["strided_4"]["streams"] == 4
    assert quality["strided_4"]["tokens_per_second"] > 0
    assert json.loads(json.dumps(quality)) == quality


def test_without_a_judge_the_rest_is_there(model: tuple[ARMD, Tokenizer], stream: TokenStream) -> None:
    quality = evaluate_generation(*model, stream, [2], Asked(count=3, new_tokens=8))
    assert quality["reference"]["gen_ppl"] is None
    assert quality["strided_2"]["gen_ppl"] is None
    assert (quality["strided_2"]["mauve"], quality["strided_2"]["mauve_reason"]) == (None, "needs a judge")
    assert 0 < quality["strided_2"]["entropy"] <= math.log(8)


def test_nothing_is_written_where_something_cannot_be(model: tuple[ARMD, Tokenizer], stream: TokenStream) -> None:
    done: list[int] = []
    for asked, streams in ((ASKED, [1, 17]), (Asked(count=1, new_tokens=33), [1]), (Asked(10_000, 16), [1])):
        with pytest.raises(EvaluationError):
            evaluate_generation(*model, stream, streams, asked, None, done.append)
    assert done == []


def test_mauve_is_left_out_with_the_reason(found: tuple[Quality, int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert found[0]["strided_1"]["mauve"] is None
    assert found[0]["strided_1"]["mauve_reason"] == "needs 100 texts or more"
    monkeypatch.setattr("armd_dist.evaluation.mauve_score.find_spec", lambda name: None)
    assert why_no_mauve(100) == INSTALL


def test_mauve_of_hidden_states() -> None:
    """Where it is installed: equal clouds of points score high, distant ones low."""
    pytest.importorskip("mauve")
    assert why_no_mauve(200) is None
    draws = np.random.default_rng(0)
    real, alike = draws.normal(size=(2, 200, 8))
    assert mauve(real, alike) > 0.8
    assert mauve(real, alike + 5) < 0.1
