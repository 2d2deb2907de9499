"""A Hugging Face tokenizer folder serves where a model file does, and its packed copy is the same tokenizer."""

import json
from pathlib import Path

import pytest
from tokenizers import ByteLevelBPETokenizer

from data_pipeline.errors import DataError
from data_pipeline.manifest import check_tokenizer, load_manifest
from data_pipeline.tokenizer import Tokenizer
from data_pipeline.verify import verify_dataset
from data_pipeline.write_shards import build_dataset


@pytest.fixture
def gpt2(texts: list[str], tmp_path: Path) -> Path:
    """`vocab.json` and `merges.txt`, as GPT-2 was published."""
    made = ByteLevelBPETokenizer()
    made.train_from_iterator(texts, vocab_size=320, special_tokens=["<|endoftext|>"], show_progress=False)
    (tmp_path / "gpt2").mkdir()
    made.save_model(str(tmp_path / "gpt2"))
    return tmp_path / "gpt2"


def test_gpt2_folder_builds_a_dataset(gpt2: Path, corpus: Path, texts: list[str], tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(gpt2)
    for text in ["<|endoftext|>", "  two\n\n", "\u2581 🎉", *texts[:5]]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.eos_id not in ids
    assert tokenizer.bos_id == tokenizer.pad_id == tokenizer.eos_id == 0
    build_dataset([str(corpus)], gpt2, tmp_path / "out")
    folder = tmp_path / "out/train"
    assert verify_dataset(folder) == []
    check_tokenizer(load_manifest(folder), tokenizer, folder)
    assert Tokenizer.load(folder / "tokenizer.model").encode(texts[0]) == tokenizer.encode(texts[0])


def test_folder_that_is_no_tokenizer(gpt2: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no Hugging Face tokenizer"):
        Tokenizer.load(tmp_path)
    (gpt2 / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<none>"}))
    with pytest.raises(DataError, match=r"end-of-text token '<none>' is not in the vocabulary"):
        Tokenizer.load(gpt2)
