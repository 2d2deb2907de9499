"""`armd generate --order learned`, of a run that learned its order."""

import json
from pathlib import Path

import pytest
from ranks import armd
from typer.testing import CliRunner

from armd_dist.cli.main import app
from armd_dist.errors import ArmdError, ExportError, GenerationError


@pytest.fixture(scope="module")
def learned(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learned") / "run"
    settings = ["model.network=denoiser", "model.learned_order=true", "training.steps=4", "training.warmup_steps=1"]
    settings += ["orders.strided_from=null", "orders.left_to_right_steps=0", "orders.progressive_steps=0"]
    done = armd("train", tiny_config, f"run.dir={folder}", *settings)
    assert done.returncode == 0, done.stderr
    return folder


def verb(*words: object) -> str:
    done = CliRunner().invoke(app, ["generate", *map(str, words), "--device", "cpu"])
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_verb(learned: Path, tmp_path: Path) -> None:
    """Prompts, holes, files that go on; all three paces."""
    ask = (learned, "--order", "learned", "--seed", 5, "--max-new-tokens", 6)
    one, two, three = (
        json.loads(verb(*ask, *pace, "--prompt", "The value", "--json"))
        for pace in ((), ("--block-size", 2), ("--steps", 3))
    )
    assert one["passes"] == len(one["tokens"]) == 6
    assert (two["passes"], len(two["tokens"])) == (3, 6)
    assert three["passes"] <= 3
    assert one == json.loads(verb(*ask, "--prompt", "The value", "--json"))
    assert verb(*ask, "--infill", "to <hole:4> that").endswith(" that\n")
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    prompts.write_text('{"prompt": "The value"}\n{"infill": "to <hole:4> that"}\n{"prompt": ""}\n')
    told = (*ask, "--prompts", prompts, "--out", out, "--batch-size", 2)
    assert "3 answers" in verb(*told)
    whole = out.read_bytes()
    assert json.loads(whole.splitlines()[0])["tokens"] == one["tokens"]
    out.write_bytes(whole[:-5])
    verb(*told)
    assert out.read_bytes() == whole
    with pytest.raises(GenerationError, match="there steps=None"):
        verb(*told, "--steps", 2)


def test_who_writes_how(learned: Path, trained: Path, tmp_path: Path) -> None:
    """Each network its own way, and an answer that names it."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a", "max_new_tokens": 2, "permutation": [1, 0]}\n')
    of_file = ("--prompts", prompts, "--out", tmp_path / "out.jsonl")
    wrong: list[tuple[tuple[object, ...], type[ArmdError], str]] = [
        ((learned,), ExportError, "armd generate --order learned"),
        ((trained, "--order", "learned"), ExportError, "has learned no order"),
        ((trained, "--steps", 4), GenerationError, "--steps=4: is for --order learned"),
        ((learned, "--order", "learned", "--steps", 4, "--block-size", 2), GenerationError, "--steps=4: .* give one"),
        ((learned, "--order", "learned", *of_file), GenerationError, "permutation: the network chooses"),
    ]
    for words, kind, told in wrong:
        with pytest.raises(kind, match=told):
            verb(*words)


def test_two_processes_write_the_same(learned: Path) -> None:
    ask = (learned, "--order", "learned", "--prompt", "The value", "--max-new-tokens", 6, "--json", "--temperature", 0)
    done = armd("generate", *ask, "--tensor-parallel", 2, processes=2)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tokens"] == json.loads(verb(*ask))["tokens"]
