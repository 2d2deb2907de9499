"""An export behaves in transformers as users, and their scripts, expect of a causal LM."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from strangers import given
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig

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


def test_a_text_ends_where_it_ends(fresh: dict[str, Tensor]) -> None:
    """At the first such token in the text, whichever pass placed it; nothing stands behind it."""
    whole, ended = fresh["strided"][0].tolist(), fresh["ended"][0].tolist()
    end = whole[9]
    assert ended == whole[: whole.index(end, 5) + 1]


def test_transformers_finds_the_loop_in_the_folder(fresh: dict[str, Tensor]) -> None:
    assert torch.equal(fresh["custom"], fresh["strided"])
    assert torch.equal(fresh["custom_usual"], fresh["usual"])
    assert torch.equal(fresh["again_strided"], fresh["strided"]), "a folder saved again has the class alone"


def test_arguments_of_transformers_serve_streams_too(model: Any) -> None:
    ids = torch.tensor([[BOS, 7, 3], [BOS, 6, 2]])
    wanted = model.generate(ids, streams=2, max_new_tokens=6)
    length = GenerationConfig(max_length=9, num_beams=1, use_cache=True)
    assert torch.equal(model.generate(inputs=ids, generation_config=length, streams=2), wanted)
    assert model.generate(ids, streams=4).shape == (2, 3 + 20)
    assert model.generate(streams=1, max_new_tokens=2).shape == (1, 3), "from nothing but BOS"
    ends = model.generate(ids, streams=2, max_new_tokens=6, eos_token_id=[wanted[0, 3].item()], pad_token_id=1)
    assert ends[0, 3:].tolist()[:2] in ([wanted[0, 3].item()], [wanted[0, 3].item(), 1])
    three = model.generate(ids, streams=2, max_new_tokens=6, do_sample=True, num_return_sequences=3, seed=5)
    assert torch.equal(three[:, :3], ids.repeat_interleave(3, 0))
    again = model.generate(ids[[0, 0, 0, 1, 1, 1]], streams=2, max_new_tokens=6, do_sample=True, seed=5)
    assert torch.equal(three, again)
    assert len(three.unique(dim=0)) == 6


def test_texts_are_drawn_by_torchs_own_numbers(model: Any) -> None:
    ids = torch.tensor([[BOS, 7, 3]])
    texts = []
    for seed in (1, None, 1):
        if seed is not None:
            torch.manual_seed(seed)
        texts.append(model.generate(ids, streams=2, max_new_tokens=12, do_sample=True).tolist())
    assert texts[0] == texts[2] != texts[1]


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"num_beams": 2}, r"streams=2\): cannot do num_beams=2; leave it out, or leave out streams"),
        ({"streamer": "x", "return_dict_in_generate": True}, "cannot do return_dict_in_generate=True, streamer='x'"),
        ({"bananas": 3}, "cannot do bananas=3"),
        ({"streams": "4"}, "streams='4': use a whole number"),
        ({"streams": 9}, "streams=9: 6 tokens can be generated in 1 to 6 streams"),
        ({"eos_token_id": [3, 4]}, r"eos_token_id=\[3, 4\]: use one token"),
        ({"max_new_tokens": None, "max_length": 3}, "max_length=3: the prompt has 3 tokens already"),
        ({"temperature": -1.0, "do_sample": True}, "temperature"),
    ],
)
def test_what_streams_cannot_do_is_told(asked: dict[str, Any], problem: str, model: Any) -> None:
    with pytest.raises(ValueError, match=problem):
        model.generate(torch.tensor([[BOS, 7, 3]]), **{"streams": 2, "max_new_tokens": 6, **asked})


def test_arguments_that_would_be_ignored_are_told(model: Any) -> None:
    ids = torch.tensor([[BOS, 7, 3]])
    for name in ("position_ids", "output_hidden_states"):
        with pytest.raises(ValueError, match=f"{name}: is not for this model"):
            model(ids, **{name: True})
    assert model(ids, output_hidden_states=False, use_cache=True, return_dict=False)[0].shape == (1, 3, 400)
    with pytest.raises(NotImplementedError, match="the vocabulary is the one that was trained"):
        model.resize_token_embeddings(500)


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
