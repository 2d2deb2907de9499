"""The exported tokenizer gives our ids, in a process without us; one that would not is never written."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from pydoc_data import topics

import pytest
from transformers import AutoTokenizer

from armd_dist.errors import ExportError
from armd_dist.export import tokenizer as export
from data_pipeline.errors import DataError
from data_pipeline.tokenizer import Tokenizer
from data_pipeline.train_tokenizer import train_tokenizer

PROSE = "\n".join(topics.topics[name] for name in sorted(topics.topics))

STRANGER = """
import json, sys
for name in ("armd_dist", "data_pipeline", "sentencepiece"):
    sys.modules[name] = None  # an import raises ImportError
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
texts = json.load(sys.stdin)
plain = [tokenizer.encode(text, add_special_tokens=False, verbose=False) for text in texts]
json.dump({
    "plain": plain,
    "batch": tokenizer(texts, verbose=False)["input_ids"],
    "texts": [tokenizer.decode(ids, skip_special_tokens=True) for ids in plain],
    "ids": [getattr(tokenizer, f"{name}_token_id") for name in ("pad", "unk", "bos", "eos", "mask")],
    "length": tokenizer.model_max_length,
    "vocabulary": len(tokenizer),
}, sys.stdout)
"""


def random_texts() -> list[str]:
    """300 of 60 characters: any code point, and many of those that meet in merges."""
    draw = random.Random(0)

    def character() -> str:
        common = draw.choice(" \n\t\u2581\u0301e\u200d<s>/--==..aaee017")
        rare = chr(draw.choice([draw.randrange(0xD800), draw.randrange(0x10000, 0x110000)]))
        return draw.choice([common, common, common, rare])

    return ["".join(character() for _ in range(60)) for _ in range(300)]


def hard_texts() -> list[str]:
    code = Path(subprocess.__file__).read_text(encoding="utf-8")
    return [*export.HARD_TEXTS, *random_texts(), *PROSE.splitlines()[::5], PROSE[:10_000], code[:10_000]]


def train(folder: Path, vocab_size: int, model_type: str = "bpe") -> Path:
    (folder / "prose.txt").write_text(PROSE[:200_000])
    inputs = [str(folder / "prose.txt")]
    return train_tokenizer(inputs, folder / "t.model", vocab_size, model_type=model_type).path  # pyright: ignore


@pytest.mark.parametrize("vocab_size", [600, 2000])
def test_a_stranger_reads_the_same_ids(vocab_size: int, tmp_path: Path) -> None:
    model = train(tmp_path, vocab_size)
    export.write_fast_tokenizer(model, tmp_path / "out", 64)
    ours, texts = Tokenizer.load(model), hard_texts()
    result = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, str(tmp_path / "out")],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    found, wanted = json.loads(result.stdout), ours.encode_batch(texts)
    assert found["plain"] == wanted
    assert found["batch"] == [[ours.bos_id, *ids] for ids in wanted]
    assert found["texts"] == texts
    assert found["ids"] == [0, 1, 2, 3, 4]
    assert (found["length"], found["vocabulary"]) == (64, vocab_size)


def test_beside_the_config_of_an_unknown_model(tmp_path: Path) -> None:
    model, out = train(tmp_path, 600), tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text('{"model_type": "nobody-knows", "auto_map": {"AutoConfig": "config.Config"}}')
    export.write_fast_tokenizer(model, out, 64)
    text = "<mask> in a text"
    assert AutoTokenizer.from_pretrained(out).encode(text)[1:] == Tokenizer.load(model).encode(text)


def test_a_tokenizer_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merges = export._merges
    monkeypatch.setattr(export, "_merges", lambda scores: merges(scores)[1:])
    with pytest.raises(ExportError, match=r"t\.model: the exported tokenizer differs from it on '"):
        export.write_fast_tokenizer(train(tmp_path, 600), tmp_path / "out", 64)
    assert not (tmp_path / "out").exists()


def test_unigram_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"unigram is not supported yet.*--model-type bpe"):
        export.write_fast_tokenizer(train(tmp_path, 600, "unigram"), tmp_path / "out", 64)


def test_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such tokenizer"):
        export.write_fast_tokenizer(tmp_path / "t.model", tmp_path / "out", 64)


def test_special_tokens_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(PROSE[:50_000])
    path = train_tokenizer([str(tmp_path / "a.txt")], tmp_path / "t.model", 500, special_tokens=["<user>"]).path
    export.write_fast_tokenizer(path, tmp_path / "out", 64)
    ours, theirs = Tokenizer.load(path), AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs.convert_tokens_to_ids("<user>") == ours.pieces(range(6)).index("<user>") == 5
    for text in ("<user>", "a <user> the"):
        assert theirs.encode(text, add_special_tokens=False) == ours.encode(text)
    assert theirs.decode([5, *ours.encode("the words")], skip_special_tokens=True) == "the words"
    assert len(theirs) == ours.vocab_size
