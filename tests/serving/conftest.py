"""A small export whose likeliest answer depends on every prompt, and a server of it in this process."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from inprocess import InProcess, Serve
from safetensors.torch import save_file
from toys import tiny_model

from armd_dist.export.open import open_armd
from armd_dist.generation.continuous import ContinuousDecoder
from armd_dist.generation.generate import Sample, answer
from armd_dist.generation.requests import Ordering, Prepared, Request
from armd_dist.generation.sampling import Sampling
from armd_dist.model.armd import ARMD
from armd_dist.serving.app import make_app
from armd_dist.serving.asking import Reader
from armd_dist.serving.config import ServingConfig
from armd_dist.serving.engine import Engine
from armd_dist.serving.template import read_template
from data_pipeline.tokenizer import Tokenizer

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}assistant:"


@pytest.fixture(scope="session")
def export(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "tiny"
    folder.mkdir()
    tokenizer = (dataset / "held_out" / "tokenizer.model").read_bytes()
    (folder / "tokenizer.model").write_bytes(tokenizer)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    model = tiny_model(dtype=torch.float32, vocab_size=400, max_sequence_length=128, num_layers=3, two_stream_layers=2)
    trained = {"attention": "across", "sequence_length": 128}
    settings = {"model_type": "armd", **model.config.model_dump(), "trained": trained}
    (folder / "config.json").write_text(json.dumps(settings))
    save_file({f"armd.{name}": weight for name, weight in model.state_dict().items()}, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="session")
def opened(export: Path) -> tuple[ARMD, Tokenizer]:
    return open_armd(export)


@pytest.fixture(scope="session")
def alone(opened: tuple[ARMD, Tokenizer]) -> Callable[..., Sample]:
    """What `armd generate` answers to one request."""

    def ask(prompt: str, count: int, streams: int = 1, suffix: str = "", seed: int = 0, **drawn: Any) -> Sample:
        model, tokenizer = opened
        ids = [*tokenizer.encode(prompt), *[None] * count, *tokenizer.encode(suffix)]
        prepared = Prepared(Request((), seed), ids, Ordering("strided", streams).turns(count, seed))
        return answer(model, tokenizer, [prepared], Sampling(**{"temperature": 0.0, **drawn}))[0]

    return ask


@pytest.fixture(scope="session")
def serve(opened: tuple[ARMD, Tokenizer], export: Path) -> Serve:
    @asynccontextmanager
    async def start(folder: Path = export, **settings: Any) -> AsyncIterator[InProcess]:
        model, tokenizer = opened
        config = ServingConfig(**{"name": "tiny", "slots": 4, **settings})
        engine = Engine(ContinuousDecoder(model, config.slots), config.max_queue)
        reader = Reader(tokenizer, model.config.max_sequence_length, config.most_texts, read_template(folder))
        engine.start()
        transport = httpx.ASGITransport(make_app(config, reader, engine), raise_app_exceptions=False)
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                yield InProcess(client, engine)
        finally:
            engine.stop()

    return start
