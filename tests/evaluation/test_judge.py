"""The judge: its nats are those of its own loss, whatever is padded, prompted or cut; what is none is refused."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from full_pass import window_nll
from transformers import AutoTokenizer, BertConfig, BertLMHeadModel, GPT2Config, GPT2LMHeadModel

from armd_dist.errors import EvaluationError
from armd_dist.evaluation.generative_perplexity import Judged, perplexity, read
from armd_dist.evaluation.judge import Judge, open_judge
from armd_dist.evaluation.samples import Sample
from armd_dist.export.open import open_armd
from armd_dist.export.write import export_checkpoint

TEXTS = ["The value of a list.", "x", "Return the names of all of them."]


@pytest.fixture(scope="module")
def export(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judge that this project trained, a little."""
    out = tmp_path_factory.mktemp("judges") / "export"
    assert export_checkpoint(trained, out)
    return out


@pytest.fixture(scope="module")
def gpt2(export: Path) -> Path:
    """A judge of another family, with hidden states; random weights, large enough to have opinions."""
    torch.manual_seed(0)
    sizes = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.3}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=400, bos_token_id=2, eos_token_id=3, **sizes))
    folder = export.parent / "gpt2"
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(export / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def judge(gpt2: Path) -> Judge:
    return open_judge(gpt2)


def plain(*texts: str) -> list[Sample]:
    return [Sample("", [text], []) for text in texts]


@torch.no_grad()
def own_loss(judge: Judge, text: str) -> tuple[float, int]:
    """Of BOS and the text, as the model itself counts: nats of all tokens, and how many they are."""
    ids = judge.tokenizer(text, return_tensors="pt").input_ids
    return judge.model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1), ids.shape[1] - 1


def test_nats_are_those_of_the_judges_own_loss(judge: Judge) -> None:
    found = read(judge, plain(*TEXTS), batch_size=3)
    for text, nats, tokens in zip(TEXTS, found.nats, found.tokens, strict=True):
        wanted, count = own_loss(judge, text)
        assert tokens == count
        assert nats == pytest.approx(wanted, rel=1e-5)
    assert found.truncated == 0
    value, low, high = perplexity(found)
    assert value == pytest.approx(math.exp(found.nats.sum() / found.tokens.sum()), rel=1e-12)
    assert low is not None
    assert high is not None
    assert low < value < high


def test_texts_of_a_batch_do_not_matter_to_one_another(judge: Judge) -> None:
    done: list[int] = []
    together = read(judge, plain(*TEXTS), batch_size=8, features=True, progress=done.append)
    alone = read(judge, plain(*TEXTS), batch_size=1, features=True)
    np.testing.assert_allclose(together.nats, alone.nats, rtol=1e-5)
    assert together.features is not None
    assert alone.features is not None
    np.testing.assert_allclose(together.features, alone.features, rtol=1e-3, atol=1e-4)
    assert together.features.shape == (3, 32)
    assert np.abs(together.features[0] - together.features[2]).max() > 0.1
    assert done == [3]


def test_prompts_are_read_and_not_counted(judge: Judge) -> None:
    prompt, text = "The value of", " a list of names."
    whole, first = (read(judge, plain(one)) for one in (prompt + text, prompt))
    found = read(judge, [Sample(prompt, [text], [])])
    assert found.tokens[0] == whole.tokens[0] - first.tokens[0]
    assert found.nats[0] == pytest.approx(whole.nats[0] - first.nats[0], rel=1e-4)
    assert abs(found.nats[0] - read(judge, plain(text)).nats[0]) > 0.1, "the prompt changes what follows"


@torch.no_grad()
def test_documents_of_a_sample_have_an_end_between_them_that_is_not_counted(judge: Judge) -> None:
    found = read(judge, [Sample("", ["one", "two"], [])])
    one, two = (judge.tokenizer(text, add_special_tokens=False).input_ids for text in ("one", "two"))
    ids = torch.tensor([[2, *one, 3, *two]])
    nats = torch.nn.functional.cross_entropy(judge.model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
    counted = [*range(len(one)), *range(len(one) + 1, len(one) + 1 + len(two))]
    assert found.nats[0] == pytest.approx(nats[counted].sum().item(), rel=1e-5)
    assert found.tokens[0] == len(one) + len(two)
    after_end = read(judge, [Sample("", ["", "two"], [])])
    assert after_end.tokens[0] == len(two)


def test_the_judges_context_cuts_texts_and_says_so(judge: Judge) -> None:
    text = "".join(f"{number} names, " for number in range(60))
    found = read(judge, plain(text, "short"))
    assert judge.context == 32, "places for a text that may come without a beginning"
    assert found.tokens[0] == 31
    assert found.truncated == 1
    ids = judge.tokenizer(text).input_ids[:32]
    wanted, _ = own_loss(judge, judge.tokenizer.decode(ids[1:]))
    assert found.nats[0] == pytest.approx(wanted, rel=1e-4)
    with pytest.raises(EvaluationError, match=r"sample 1: the judge's 32 tokens end before"):
        read(judge, [*plain("a"), Sample(text, ["b"], [])])


def test_an_export_judges_as_our_own_network_does(export: Path) -> None:
    judge = open_judge(export, trust_remote_code=True)
    found = read(judge, plain(*TEXTS), batch_size=2, features=True)
    assert found.features is None, "it gives no hidden states"
    model, tokenizer = open_armd(export)
    for text, nats in zip(TEXTS, found.nats, strict=True):
        ids = torch.tensor([tokenizer.encode(text)])
        places = torch.arange(1, ids.shape[1] + 1)
        assert nats == pytest.approx(window_nll(model, ids, places, places, tokenizer.bos_id).sum().item(), rel=1e-4)


def test_the_judges_precision_is_as_asked(gpt2: Path, judge: Judge) -> None:
    rough = open_judge(gpt2, "bfloat16")
    assert (rough.dtype, rough.model.dtype, judge.model.dtype) == ("bfloat16", torch.bfloat16, torch.float32)
    exact, found = (read(one, plain(*TEXTS)).nats for one in (judge, rough))
    assert 0 < np.abs(found - exact).max() < 0.05 * exact.max()


def test_an_interval_needs_several_samples() -> None:
    one = Judged(np.array([6.0]), np.array([3]), None, 0)
    assert perplexity(one) == (pytest.approx(math.exp(2)), None, None)
    alike = Judged(np.array([6.0, 2.0]), np.array([3, 1]), None, 0)
    assert perplexity(alike) == pytest.approx((math.exp(2),) * 3)
    # A mean over tokens, not over samples.
    assert perplexity(Judged(np.array([9.0, 1.0]), np.array([3, 1]), None, 0))[0] == pytest.approx(math.exp(2.5))


def test_empty_samples_are_counted_and_weigh_nothing(judge: Judge) -> None:
    empty = Sample("The", [""], [3])
    found = read(judge, [*plain("a name"), empty], features=True)
    assert (found.empty, found.tokens[1], found.nats[1]) == (1, 0, 0)
    alone = perplexity(read(judge, plain("a name")))
    assert perplexity(found) == (pytest.approx(alone[0], rel=1e-5), None, None)
    with pytest.raises(EvaluationError, match="all 2 samples are empty"):
        read(judge, [empty, empty])


def changed(folder: Path, out: Path, what: str) -> Path:
    """A copy of a judge with something wrong with it."""
    shutil.copytree(folder, out)
    if what in ("tokenizer", "config"):
        for file in out.glob(f"{what}*"):
            file.unlink()
    elif what == "weights":
        (out / "model.safetensors").unlink()
    else:
        settings = json.loads((out / "config.json").read_text())
        (out / "config.json").write_text(json.dumps({**settings, "n_layer": 3}))
    return out


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("config", "holds no config.json"),
        ("tokenizer", "has no tokenizer; put its files"),
        ("weights", "is no causal model that loads"),
        ("layer", "lacks weights of its model, such as transformer.h.2."),
    ],
)
def test_incomplete_judges_are_refused(what: str, told: str, gpt2: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError) as error:
        open_judge(changed(gpt2, tmp_path / "judge", what))
    assert str(error.value).startswith(f"--judge {tmp_path / 'judge'}: {told}")


def test_a_tokenizer_of_another_model_is_refused(export: Path, tmp_path: Path) -> None:
    GPT2LMHeadModel(GPT2Config(vocab_size=399, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(export).save_pretrained(tmp_path)
    with pytest.raises(EvaluationError, match="its tokenizer has ids up to 399, its model 399 rows"):
        open_judge(tmp_path)


def test_what_sees_the_future_is_no_judge(export: Path, tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertLMHeadModel(BertConfig(vocab_size=400, initializer_range=0.5, **sizes)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(export).save_pretrained(tmp_path)
    with pytest.raises(EvaluationError, match="sees tokens to come"):
        open_judge(tmp_path)


def test_code_of_a_judge_runs_where_it_is_trusted_alone(export: Path) -> None:
    with pytest.raises(EvaluationError, match="brings Python files of its own"):
        open_judge(export)


def test_bad_numbers_of_a_judge_are_told(gpt2: Path) -> None:
    judge = open_judge(gpt2)
    judge.model.transformer.wpe.weight[5] = float("nan")
    with pytest.raises(EvaluationError, match="sample 1: the judge gives no finite number"):
        read(judge, plain("x", TEXTS[0]), batch_size=1)
    with pytest.raises(EvaluationError, match="--judge-dtype float8"):
        open_judge(gpt2, "float8")
