"""A run on a Hugging Face tokenizer, GPT-2's kind: built, trained, evaluated and generated from, exported."""

import json
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from ranks import armd
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoTokenizer

from data_pipeline.manifest import load_manifest
from data_pipeline.tokenizer import Tokenizer

TEXTS = [topics[name] for name in sorted(topics)][:20]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`gpt2/` (vocab.json, merges.txt), `tokens/` and the run `run/` of 20 steps."""
    base = tmp_path_factory.mktemp("foreign")
    made = ByteLevelBPETokenizer()
    made.train_from_iterator(TEXTS, vocab_size=400, special_tokens=["<|endoftext|>"], show_progress=False)
    (base / "gpt2").mkdir()
    made.save_model(str(base / "gpt2"))
    (base / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    build = ["--input", base / "text.jsonl", "--tokenizer", base / "gpt2", "--out", base / "tokens"]
    done = armd("data", "build", *build, "--held-out", 0.2)
    assert done.returncode == 0, done.stderr
    return base


@pytest.fixture(scope="module")
def run(folder: Path, tiny_config: Path) -> Path:
    done = armd("train", tiny_config, f"run.dir={folder / 'run'}", f"data.path={folder / 'tokens/train'}")
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_the_vocabulary_is_theirs(folder: Path) -> None:
    manifest = load_manifest(folder / "tokens/train")
    assert manifest.vocab_size == 400
    assert manifest.bos_id == manifest.eos_id == 0


def test_evaluation(folder: Path, run: Path, tmp_path: Path, dataset: Path) -> None:
    done = armd("eval", run, "--data", folder / "tokens/held_out", "--windows", 4, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "evaluation.json").is_file()
    done = armd("eval", run, "--data", dataset / "held_out", "--windows", 4)
    assert done.returncode == 2
    assert f"{dataset / 'held_out'}: made by another tokenizer" in done.stderr


@pytest.mark.parametrize("streams", [1, 4])
def test_generation(run: Path, streams: int) -> None:
    prompt = "naïve 🎉"
    ask = ("--prompt", prompt, "--max-new-tokens", 12, "--streams", streams, "--json")
    done = armd("generate", run, *ask)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["prompt"] == prompt
    assert len(found["tokens"]) == 12 or found["tokens"][-1] == 0  # the end of the text
    assert all(0 <= token < 400 for token in found["tokens"])
    assert json.loads(armd("generate", run, *ask).stdout) == found


def test_export(folder: Path, run: Path, tmp_path: Path) -> None:
    done = armd("export", run, tmp_path / "export")
    assert done.returncode == 0, done.stderr
    assert f"windows of {folder / 'tokens/held_out'}: logits within" in done.stdout
    theirs = AutoTokenizer.from_pretrained(tmp_path / "export")
    ours = Tokenizer.load(folder / "gpt2")
    for text in ("naïve 🎉", "  two\n\n", "<|endoftext|>", TEXTS[0][:500]):
        assert theirs.encode(text) == [0, *ours.encode(text)]
        assert theirs.decode(ours.encode(text)) == text
    ask = ("--prompt", "The value", "--max-new-tokens", 8, "--streams", 2, "--json")
    texts = [json.loads(armd("generate", model, *ask).stdout) for model in (run, tmp_path / "export")]
    assert texts[0] == texts[1]
