"""Small text, a tokenizer trained on it, and a dataset of several shards: made once for the whole room."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from numbered import numbered_dataset
from served import TOKENS
from webserver import DataServer, serving

from data_pipeline import remote
from data_pipeline.tokenizer import Tokenizer
from data_pipeline.train_tokenizer import train_tokenizer
from data_pipeline.write_shards import build_dataset

SENTENCE = "the quick brown fox jumps over lazy dogs while seven wizards brew potent café elixirs, and then 42 more"


def make_text(seed: int, words: int) -> str:
    draw, vocabulary = random.Random(seed), SENTENCE.split()
    return " ".join(draw.choice(vocabulary) for _ in range(words)) + "\n"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pages.jsonl`: 120 documents of 1 to 200 words; documents 7 and 70 have no text."""
    path = tmp_path_factory.mktemp("corpus") / "pages.jsonl"
    texts = ["" if k in (7, 70) else make_text(k, 1 + k * 37 % 200) for k in range(120)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture(scope="session")
def model(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    return train_tokenizer([str(corpus)], path, 340).path


@pytest.fixture(scope="session")
def tokenizer(model: Path) -> Tokenizer:
    return Tokenizer.load(model)


@pytest.fixture(scope="session")
def dataset(corpus: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build with a held-out split and shards of about 4,000 tokens. Read only: tests that damage it copy it."""
    out = tmp_path_factory.mktemp("data") / "built"
    build_dataset([str(corpus)], model, out, held_out=0.2, shard_tokens=4000)
    return out


@pytest.fixture(scope="session")
def texts(corpus: Path) -> list[str]:
    """The documents with text, in order."""
    found = [json.loads(line)["text"] for line in corpus.read_text().splitlines()]
    return [text for text in found if text]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return numbered_dataset(tmp_path_factory.mktemp("served") / "data", TOKENS, shard_tokens=1000)


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DataServer]:
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 0.001)
    with serving(folder) as server:
        yield server
