"""The exported folder: loads with transformers alone and is the checkpoint, to the last few digits."""

import ast
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import armd
from strangers import given, in_a_fresh_process
from transformers import AutoTokenizer
from typer.testing import CliRunner

from armd_dist.checkpoint.tensors import load_model
from armd_dist.cli.main import app
from armd_dist.errors import ArmdError
from armd_dist.export.huggingface.configuration_armd import ArmdConfig
from armd_dist.export.open import open_armd
from armd_dist.export.write import export_checkpoint
from armd_dist.generation.decoder import decode
from armd_dist.generation.passes import make_batch, turns_of
from armd_dist.generation.sampling import Sampling
from armd_dist.model.config import ModelConfig
from armd_dist.model.layout import lay_out
from armd_dist.orders.strided import strided_places
from data_pipeline.errors import DataError

SWITCHES = [
    "model.num_key_value_heads=2",
    "model.qk_norm=true",
    "model.activation=swiglu",
    "model.normalization=layernorm",
    "model.bias=true",
    "model.query_place=previous",
    "model.tie_embeddings=false",
    "model.hidden_dropout=0.3",
    "model.mup_base_width=8",
]


def check_logits(run: Path, fresh: dict[str, torch.Tensor]) -> None:
    model, _, _ = load_model(run)
    ids, block = given()["ids"], given()["block"]
    places = torch.arange(1, 21).expand(2, -1)
    left_to_right = model(lay_out(ids[:, 1:], places, places, bos_id=2)).transpose(0, 1)
    any_order = model(lay_out(ids[:, 1:], places, block, bos_id=2)).transpose(0, 1)
    assert (fresh["logits"][:, :-1] - left_to_right).abs().max() <= 1e-5
    assert (fresh["any_order"] - any_order).abs().max() <= 1e-5
    assert left_to_right.std() > 0.1, "the comparison must have something to compare"


def test_logits_equal_the_checkpoints(trained: Path, fresh: dict[str, torch.Tensor]) -> None:
    check_logits(trained, fresh)


@pytest.mark.parametrize(("name", "streams", "new"), [("one_stream", 1, 6), ("strided", 4, 16)])
def test_greedy_tokens_are_those_of_the_checkpoint(
    name: str, streams: int, new: int, trained: Path, fresh: dict[str, torch.Tensor]
) -> None:
    texts = [[*row, *[None] * new] for row in given()["ids"][:, 1:5].tolist()]
    turns = [turns_of(strided_places(new, streams))] * len(texts)
    generated = decode(load_model(trained)[0], *make_batch(texts, turns, 2), Sampling(0.0), 2, range(2))
    assert torch.equal(fresh[name][:, 5:], generated.tokens[:, 4:])


@pytest.mark.parametrize(
    "places",
    [
        ["model.position_embedding=rotary"],
        ["model.position_embedding=learned", "model.query_context=both"],
    ],
    ids=["rotary", "learned_and_both_contexts"],
)
def test_every_switch_of_the_network_is_exported(places: list[str], tiny_config: Path, tmp_path: Path) -> None:
    """Dropout too, which must not fall on a model that was loaded to be used."""
    run, out = tmp_path / "run", tmp_path / "export"
    done = armd("train", tiny_config, f"run.dir={run}", "training.stop_at=2", *SWITCHES, *places)
    assert done.returncode == 0, done.stderr
    assert export_checkpoint(run, out)
    fresh = in_a_fresh_process(out, tmp_path)
    check_logits(run, fresh)
    assert torch.equal(fresh["usual"], fresh["one_stream"][:, : fresh["usual"].shape[1]])
    assert torch.equal(fresh["again"], fresh["logits"])
    assert not open_armd(out)[0].training


def test_files_import_torch_and_transformers_only(tiny_export: Path) -> None:
    allowed = {"torch", "transformers", *sys.stdlib_module_names}
    for file in tiny_export.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            assert {name.split(".")[0] for name in names} <= allowed, file.name


def test_padding_of_the_vocabulary_is_gone(tiny_export: Path) -> None:
    model, _ = open_armd(tiny_export)
    assert model.tokens.get_parameter("weight").shape[0] == 400


def test_configurations_have_the_same_fields(tiny_export: Path) -> None:
    config = ArmdConfig.from_pretrained(tiny_export)
    for name in ModelConfig.model_fields:
        assert hasattr(config, name), name
    assert json.loads((tiny_export / "config.json").read_text())["trained"]["step"] == 20


def test_eval_and_generate_read_checkpoint_and_export_alike(trained: Path, tiny_export: Path, dataset: Path) -> None:
    answers = []
    for model in (trained, tiny_export):
        done = armd(
            "generate", model, "--prompt", "The ", "--streams", 4, "--max-new-tokens", 12, "--seed", 5, "--json"
        )
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout))
    assert answers[0]["tokens"] == answers[1]["tokens"]
    assert answers[0]["passes"] == 4 + 3 - 1
    assert {"text", "tokens", "logprobs", "passes"} <= set(answers[0])


def test_a_chat_template_goes_along(trained: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "out", tmp_path / "chat.jinja"
    words = [str(trained), str(out), "--no-verify", "--chat-template", str(file)]
    file.write_text("{% for %}")
    error = CliRunner().invoke(app, ["export", *words]).exception
    assert isinstance(error, ArmdError)
    assert "chat.jinja: its chat template is none" in str(error)
    assert not out.exists()
    file.write_text("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}")
    assert CliRunner().invoke(app, ["export", *words]).exit_code == 0
    tokenizer = AutoTokenizer.from_pretrained(out)
    ask: dict[str, Any] = {"return_dict": False, "tokenizer_kwargs": {"split_special_tokens": False}}
    said = [{"role": "user", "content": "The value"}]
    ids = tokenizer.encode("The value", add_special_tokens=False)
    assert tokenizer.apply_chat_template(said, **ask) == [*ids, tokenizer.eos_token_id]
    again = CliRunner().invoke(app, ["export", *words])
    assert "already the export of this checkpoint" in again.stdout
    file.write_text("another")
    error = CliRunner().invoke(app, ["export", *words]).exception
    assert "is this export without that chat template; copy it there as chat_template.jinja" in str(error)


def test_rerun_knows_its_export_and_refuses_others(trained: Path, tiny_export: Path, tmp_path: Path) -> None:
    again = armd("export", trained, tiny_export)
    assert again.returncode == 0
    assert "already the export of this checkpoint" in again.stdout
    other = armd("export", trained / "checkpoints" / "step-00000010", tiny_export)
    assert other.returncode == 2
    assert "is not this export of this checkpoint" in other.stderr


def test_bad_requests_are_told(trained: Path, tiny_export: Path, dataset: Path, tmp_path: Path) -> None:
    for arguments, text in (
        (["generate", trained, "--max-new-tokens", 100], "exceed the model's length of 32"),
        (["generate", trained, "--max-new-tokens", 4, "--streams", 8], "streams=8"),
        (["generate", trained, "--top-p", 2.0], "top-p=2.0"),
        (["generate", tmp_path / "nowhere"], "no such folder"),
        (["eval", trained, "--data", dataset / "held_out", "--streams", "1,x"], "is not a list of positive numbers"),
        (["eval", trained, "--data", dataset / "held_out", "--streams", "64"], "at most that many streams"),
        (["eval", trained, "--data", dataset], "name one of them"),
        (["export", tmp_path, tmp_path / "out"], "holds no complete checkpoint"),
    ):
        error = CliRunner().invoke(app, [*map(str, arguments)]).exception
        assert isinstance(error, ArmdError | DataError), (arguments, error)
        assert text in str(error), arguments
    done = armd("generate", tmp_path / "nowhere")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), "such errors end so"


def test_data_of_another_tokenizer_is_refused(trained: Path, dataset: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(dataset / "held_out", other)
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps({**manifest, "tokenizer_sha256": "0" * 64}))
    done = armd("eval", trained, "--data", other)
    assert done.returncode == 2
    assert "made by another tokenizer" in done.stderr
