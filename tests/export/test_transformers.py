"""An export behaves in transformers as users, and their scripts, expect of a causal LM."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from strangers import given
from torch import Tensor
from transformers import AutoModelForCausalLM

from armd_dist.export.open import open_armd
from armd_dist.model.armd import ARMD
from armd_dist.model.layout import lay_out

BOS = 2
TEXTS = ([7, 3, 9, 4, 8, 5], [6, 2, 11], [12, 13, 5, 6])


@pytest.fixture(scope="module")
def model(tiny_export: Path) -> Any:
    """In float64, so that what is equal is equal to the last digits."""
    return AutoModelForCausalLM.from_pretrained(tiny_export, trust_remote_code=True, dtype=torch.float64)


@pytest.fixture(scope="module")
def network(tiny_export: Path) -> ARMD:
    return open_armd(tiny_export)[0].to(torch.float64)


def rows(network: ARMD, text: list[int]) -> Tensor:
    """Logits for each token of the text and for the one behind it, [tokens + 1, vocab]."""
    ids = torch.tensor([[*text, BOS]])
    places = torch.arange(1, ids.shape[1] + 1)[None]
    return network(lay_out(ids, places, places, BOS))[:, 0]


def padded(texts: tuple[list[int], ...], side: str) -> tuple[Tensor, Tensor]:
    """(ids, mask); padding holds ids of tokens that would show."""
    longest = max(map(len, texts))
    given, masks = [], []
    for text in texts:
        gap, real = [15] * (longest - len(text)), [1] * len(text)
        ends = (gap, text) if side == "left" else (text, gap)
        given.append([*ends[0], *ends[1]])
        zeros = [0] * len(gap)
        masks.append([*zeros, *real] if side == "left" else [*real, *zeros])
    return torch.tensor(given), torch.tensor(masks)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("bos", ["all", "none", "one"])
def test_padding_and_a_missing_bos_change_nothing(side: str, bos: str, model: Any, network: ARMD) -> None:
    """Of one batch some texts may begin with BOS and others not."""
    begin = {"all": (BOS,) * 3, "none": (None,) * 3, "one": (None, BOS, None)}[bos]
    texts = tuple([*([first] if first else []), *text] for first, text in zip(begin, TEXTS, strict=True))
    ids, mask = padded(texts, side)
    logits = model(ids, attention_mask=mask).logits
    assert logits.shape[:2] == ids.shape
    for row, (text, first) in enumerate(zip(TEXTS, begin, strict=True)):
        wanted = rows(network, text)[0 if first else 1 :]
        torch.testing.assert_close(logits[row][mask[row].bool()], wanted, rtol=0, atol=1e-12)


def test_labels_are_shifted_and_minus_100_is_left_out(model: Any, network: ARMD) -> None:
    ids, mask = padded(tuple([BOS, *text] for text in TEXTS), "right")
    labels = ids.masked_fill(mask == 0, -100)
    labels[0, :3] = -100
    nats = [
        -rows(network, text).log_softmax(-1)[place, token]
        for number, text in enumerate(TEXTS)
        for place, token in enumerate(text)
        if number or place > 1
    ]
    loss = model(ids, attention_mask=mask, labels=labels).loss
    assert loss.item() == pytest.approx(torch.stack(nats).mean().item(), rel=1e-6)
    summed = model(ids, attention_mask=mask, labels=labels, num_items_in_batch=10).loss
    assert summed.item() == pytest.approx(torch.stack(nats).sum().item() / 10, rel=1e-6), "as Trainer accumulates"


@pytest.mark.parametrize("bos", [[BOS], []], ids=["bos", "no_bos"])
def test_a_batch_of_prompts_is_continued_as_each_alone(bos: list[int], model: Any) -> None:
    ids, mask = padded(tuple([*bos, *text] for text in TEXTS), "left")
    ask = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    found = model.generate(ids, attention_mask=mask, **ask)[:, -5:]
    for row, text in enumerate(TEXTS):
        assert torch.equal(found[row], model.generate(torch.tensor([[*bos, *text]]), **ask)[0, -5:])
        assert torch.equal(
            found[row], model.generate(torch.tensor([[*bos, *text]]), streams=1, max_new_tokens=5)[0, -5:]
        )


def test_what_no_batch_may_be_is_told(model: Any) -> None:
    ids = torch.tensor([[BOS, 5, 6, 7]])
    for mask, text in (([[1, 0, 1, 1]], "a row has a hole"), ([[0] * 4], "a row hides all of its tokens")):
        with pytest.raises(ValueError, match=text):
            model(ids, attention_mask=torch.tensor(mask))
    with pytest.raises(ValueError, match="are 33 places with the one to predict, and the model has 32"):
        model(torch.full((1, 32), 5))
    assert model(torch.tensor([[BOS, *[5] * 31]])).logits.shape == (1, 32, 400), "so long are texts with BOS"
    with pytest.raises(ValueError, match="block= takes texts of equal length"):
        model(ids, attention_mask=torch.tensor([[1, 1, 1, 0]]), block=ids)


def test_plain_calls_have_the_usual_shift(fresh: dict[str, Tensor]) -> None:
    ids = given()["ids"]
    wanted = F.cross_entropy(fresh["logits"][:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert fresh["loss"].item() == pytest.approx(wanted.item(), abs=1e-6)


def test_strided_generation_takes_its_passes(fresh: dict[str, Tensor]) -> None:
    assert fresh["strided"].shape == (2, 5 + 16)
    assert fresh["passes"] == 4 + 16 // 4 - 1
    assert torch.equal(fresh["strided"][:, :5], given()["ids"][:, :5])
    assert fresh["sampled"].shape == (2, 5 + 8)


def test_usual_generate_agrees_with_one_stream(fresh: dict[str, Tensor]) -> None:
    usual = fresh["usual"]
    assert torch.equal(usual, fresh["one_stream"][:, : usual.shape[1]])


def test_padding_on_the_left_changes_nothing(fresh: dict[str, Tensor]) -> None:
    assert torch.equal(fresh["padded"][:1, 3:], fresh["short"])
    assert torch.equal(fresh["padded"][1, :5], given()["ids"][1, :5])
    assert torch.equal(fresh["batch"], fresh["alone"])


def test_saved_again_and_moved_it_is_the_same(fresh: dict[str, Tensor]) -> None:
    assert torch.equal(fresh["again"], fresh["logits"])
    assert fresh["again_dtype"] == torch.float32


def test_auto_model_gives_what_the_head_reads(fresh: dict[str, Tensor], tiny_export: Path) -> None:
    network, _ = open_armd(tiny_export)
    head = network.tokens.get_parameter("weight")
    torch.testing.assert_close(fresh["hidden"] @ head.t(), fresh["logits"], rtol=0, atol=1e-5)


def test_bfloat16_computes_in_bfloat16(fresh: dict[str, Tensor]) -> None:
    assert fresh["half"].dtype == torch.bfloat16
    difference = (fresh["half"].float() - fresh["logits"]).abs().max()
    assert 0 < difference < 0.05 * fresh["logits"].abs().max()
    assert fresh["half_tokens"].shape == fresh["strided"].shape


def test_tokenizer_puts_bos_in_front(fresh: dict[str, Tensor], tiny_export: Path) -> None:
    _, tokenizer = open_armd(tiny_export)
    assert fresh["text_ids"][0].tolist() == [2, *tokenizer.encode("The value of")]
