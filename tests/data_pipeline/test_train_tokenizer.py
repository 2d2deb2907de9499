"""Lossless on any text, the same bytes on every run, and clear words for what cannot work."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece

from data_pipeline.errors import DataError
from data_pipeline.tokenizer import Tokenizer
from data_pipeline.train_tokenizer import _sample, train_tokenizer

HARD = [
    "",
    " ",
    "   leading and trailing   ",
    "double  spaces\tand\ttabs\n\nand\r\nnewlines\n",
    "\n",
    "e\u0301 é ﬁ Å ½ combining\u0323\u0307",
    "🎉👨‍👩‍👧‍👦🏳️‍🌈",
    "<s></s><pad><unk><mask> <mask>",
    "<0x0A> literal",
    "\u2581 a\u2581\u2581b \u2581",
    "\x00\x01\x7f\ufeff\u2028\u2029\u0085\ufffd",
    "▅ ⁇ 汉字 العربية 𝔘𝔫𝔦",
]


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_round_trip(model_type: str, corpus: Path, tmp_path: Path) -> None:
    path = train_tokenizer([str(corpus)], tmp_path / "t.model", 320, model_type=model_type).path  # pyright: ignore
    tokenizer = Tokenizer.load(path)
    draw = random.Random(0)
    noise = [
        "".join(chr(draw.choice([32, 10, 97, 0x2581, draw.randrange(0xD800), 0x1F600])) for _ in range(50))
        for _ in range(50)
    ]
    for text in [*HARD, *noise]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert all(0 <= token < tokenizer.vocab_size for token in ids)
        special = {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.mask_id}
        assert not special & set(ids)


def test_batch_is_encode_of_each(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_batch(HARD) == [tokenizer.encode(text) for text in HARD]


def test_special_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 340
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.mask_id) == (0, 2, 3, 4)
    assert tokenizer.pieces(range(5)) == ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
    assert tokenizer.decode([2, *tokenizer.encode("fox"), 4, 3]) == "fox"


def test_id_outside_the_vocabulary(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="leave"):
        tokenizer.decode([340])


def test_two_runs_give_the_same_bytes(corpus: Path, model: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    again = train_tokenizer([str(corpus)], tmp_path / "again.model", tokenizer.vocab_size)
    assert again.path.read_bytes() == model.read_bytes()
    assert not again.reused


def test_a_long_line_is_learnt_from(tmp_path: Path) -> None:
    """Sentencepiece drops "sentences" over its length limit silently; ours are cut before."""
    (tmp_path / "long.txt").write_text("zebra" * 20_000)
    path = train_tokenizer([str(tmp_path / "long.txt")], tmp_path / "t.model", 269).path
    assert len(Tokenizer.load(path).encode("zebra" * 10)) < 25


def test_rerun_keeps_the_model_and_other_settings_are_refused(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.model"
    first = train_tokenizer([str(corpus)], out, 300)
    changed = out.stat().st_mtime_ns
    again = train_tokenizer([str(corpus)], out, 300)
    assert again.reused
    assert again.sha256 == first.sha256
    assert out.stat().st_mtime_ns == changed
    with pytest.raises(DataError, match=r"other text or settings.*--force"):
        train_tokenizer([str(corpus)], out, 301)
    assert train_tokenizer([str(corpus)], out, 301, force=True).sha256 != first.sha256
    assert Tokenizer.load(out).vocab_size == 301
    out.write_bytes(b"someone else's file")
    with pytest.raises(DataError, match="--force"):
        train_tokenizer([str(corpus)], out, 301)
    assert out.read_bytes() == b"someone else's file"


def test_nothing_is_left_behind(corpus: Path, tmp_path: Path) -> None:
    train_tokenizer([str(corpus)], tmp_path / "t.model", 300)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.model", "t.model.json"]


def test_vocabulary_too_large_names_the_largest(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello world\n" * 20)
    with pytest.raises(DataError, match=r"--vocab-size 9000 is too large for this text; use at most \d+") as error:
        train_tokenizer([str(tmp_path / "a.txt")], tmp_path / "t.model", 9000)
    largest = int(str(error.value).split("at most ")[1].split(",")[0])
    assert train_tokenizer([str(tmp_path / "a.txt")], tmp_path / "t.model", largest)
    with pytest.raises(DataError, match="too large"):
        train_tokenizer([str(tmp_path / "a.txt")], tmp_path / "u.model", largest + 1)


def test_vocabulary_too_small(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--vocab-size 100 is too small"):
        train_tokenizer([str(corpus)], tmp_path / "t.model", 100)


def test_bad_text_keeps_its_own_message(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "fine " * 100}) + "\nbroken\n")
    with pytest.raises(DataError, match="line 2: not JSON"):
        train_tokenizer([str(tmp_path / "a.jsonl")], tmp_path / "t.model", 300)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match="no text to train"):
        train_tokenizer([str(tmp_path / "empty.txt")], tmp_path / "t.model", 300)
    assert not (tmp_path / "t.model").exists()


def test_loading_what_is_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such tokenizer.*armd tokenizer train"):
        Tokenizer.load(tmp_path / "none.model")
    with pytest.raises(DataError, match="holds no Hugging Face tokenizer"):
        Tokenizer.load(tmp_path)
    for content in (b"", b"not a model"):
        (tmp_path / "bad.model").write_bytes(content)
        with pytest.raises(DataError, match=r"bad\.model: neither a sentencepiece model"):
            Tokenizer.load(tmp_path / "bad.model")


def test_a_model_without_our_special_tokens(tmp_path: Path) -> None:
    with (tmp_path / "other.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["some words here"] * 9), model_writer=file, vocab_size=13, minloglevel=2
        )
    other = Tokenizer.load(tmp_path / "other.model")
    assert (other.bos_id, other.eos_id, other.pad_id, other.mask_id) == (1, 2, 2, None)
    assert other.decode(other.encode("some words")) == "some words"


def test_sentences_are_drawn_from_all_files_by_the_seed(tmp_path: Path) -> None:
    """Each file has a letter of its own; 300 of 3,000 lines have some of each, and others by another seed."""
    for letter in "abcde":
        (tmp_path / f"{letter}.jsonl").write_text(
            "".join(json.dumps({"text": f"{letter} {number} words"}) + "\n" for number in range(600))
        )
    inputs = [str(tmp_path / "*.jsonl")]
    made = {
        name: train_tokenizer(inputs, tmp_path / f"{name}.model", 285, sentences=count, seed=seed)
        for name, count, seed in (("first", 300, 1), ("again", 300, 1), ("other", 300, 2), ("more", 5000, 1))
    }
    assert made["first"].sha256 == made["again"].sha256
    assert made["first"].sha256 != made["other"].sha256
    tokenizer = Tokenizer.load(made["first"].path)
    assert all(len(tokenizer.encode(letter)) == 1 for letter in "abcde")
    # More than there are is all of them, and an input that is sampled is no longer the input as it is.
    assert made["more"].sha256 == train_tokenizer(inputs, tmp_path / "all.model", 285).sha256
    with pytest.raises(DataError, match="other text or settings"):
        train_tokenizer(inputs, tmp_path / "first.model", 285, sentences=300, seed=3)


def test_a_sample_has_equal_chances() -> None:
    counts = np.zeros(20)
    for seed in range(2000):
        for sentence in _sample(iter(map(str, range(20))), 5, seed):
            counts[int(sentence)] += 1
    assert np.abs(counts / 2000 - 0.25).max() < 0.05  # five standard deviations


def test_special_tokens_of_the_user(corpus: Path, tmp_path: Path) -> None:
    path = train_tokenizer([str(corpus)], tmp_path / "t.model", 320, special_tokens=["<user>", "<robot>"]).path
    tokenizer = Tokenizer.load(path)
    assert tokenizer.pieces(range(4, 7)) == ["<mask>", "<user>", "<robot>"]
    ids = tokenizer.encode("<user>fox<robot>")
    assert tokenizer.decode(ids) == "<user>fox<robot>"
    assert not {4, 5, 6} & set(ids)
    assert tokenizer.decode([5, *tokenizer.encode("fox"), 6]) == "fox"


def test_character_coverage(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello world again\n" * 200 + "é")
    covered, rest = (
        Tokenizer.load(train_tokenizer([str(tmp_path / "a.txt")], tmp_path / f"{share}.model", 277 + extra,
                                       character_coverage=share).path)
        for share, extra in ((1.0, 1), (0.99, 0))
    )  # fmt: skip
    assert len(covered.encode("é")) == 1
    assert rest.pieces(rest.encode("é")) == ["<0xC3>", "<0xA9>"]
    assert rest.decode(rest.encode("é")) == "é"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"character_coverage": 1.5}, r"--character-coverage 1\.5: use a share in \[0\.98, 1\]"),
        ({"sentences": 0}, "--sentences 0: use at least 1, or leave it out"),
        ({"special_tokens": ["<s>"]}, "--special-token '<s>': is empty, has spaces or is there already"),
        ({"special_tokens": ["<a>", "<a>"]}, "--special-token '<a>'"),
        ({"special_tokens": ["a b"]}, "--special-token 'a b'"),
    ],
)
def test_bad_settings(corpus: Path, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        train_tokenizer([str(corpus)], tmp_path / "t.model", 320, **settings)
    assert not list(tmp_path.iterdir())
