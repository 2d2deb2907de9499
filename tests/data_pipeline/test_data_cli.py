"""The verbs: what they print, that a rerun is quiet, and that a user's error is a DataError."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from armd_dist.cli import data, tokenizer
from data_pipeline.errors import DataError


def invoke(app: object, *arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])  # pyright: ignore
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_train_build_inspect_verify(corpus: Path, tmp_path: Path) -> None:
    model, out = tmp_path / "t.model", tmp_path / "out"
    train = (tokenizer.app, "train", "--input", corpus, "--out", model, "--vocab-size", 320)
    printed = invoke(*train)
    assert "written: 320 pieces" in printed
    assert "bytes per token" in printed
    assert "is already trained" in invoke(*train)
    build = (data.app, "build", "--input", corpus, "--tokenizer", model, "--out", out, "--held-out", 0.2)
    printed = invoke(*build, "--workers", 1)
    assert f"{out / 'held_out'}: " in printed
    assert "skipped for lack of text: 2 documents" in printed
    assert "is already built" in invoke(*build, "--workers", 2)
    printed = invoke(data.app, "inspect", out, "--samples", 1)
    assert "uint16" in printed
    assert "document length" in printed
    assert invoke(data.app, "verify", out).count("no problem found") == 2


def test_tokenizer_options(corpus: Path, tmp_path: Path) -> None:
    settings = ("--vocab-size", 300, "--sentences", 60, "--seed", 4, "--special-token", "<user>")
    settings += ("--character-coverage", 1.0, "--model-type", "unigram")
    train = (tokenizer.app, "train", "--input", corpus, "--out", tmp_path / "t.model", *settings)
    printed = invoke(*train)
    assert "written: 300 pieces" in printed
    assert "tokens per word" in printed
    record = json.loads((tmp_path / "t.model.json").read_text())
    assert record["model_type"] == "unigram"
    assert (record["sentences"], record["seed"], record["character_coverage"]) == (60, 4, 1.0)
    assert record["special_tokens"] == ["<user>"]
    assert "is already trained" in invoke(*train)


def test_verify_lists_problems(dataset: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(dataset / "train", tmp_path / "train"))
    (folder / "tokens-000000.tar").unlink()
    (folder / "tokens-000001.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 problem\(s\)\n.*000000.tar: .*missing.*\n.*000001.tar: truncated"):
        invoke(data.app, "verify", folder)


@pytest.mark.parametrize(
    "arguments",
    [
        ["build", "--input", "none.txt", "--tokenizer", "MODEL", "--out", "OUT"],
        ["build", "--input", "python-docs", "--tokenizer", "none.model", "--out", "OUT"],
        ["inspect", "none"],
        ["verify", "none"],
    ],
)
def test_user_errors_are_data_errors(arguments: list[str], model: Path, tmp_path: Path) -> None:
    places = {"MODEL": str(model), "OUT": str(tmp_path / "out")}
    with pytest.raises(DataError, match="none"):
        invoke(data.app, *(places.get(argument, argument) for argument in arguments))
