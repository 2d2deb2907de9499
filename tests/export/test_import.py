"""A pretrained AR model is, left to right, the network that is made of it; what cannot be is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from disks import small_disk
from pretrained import POSITIONS, SHAPES, VOCAB, publish
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from armd_dist.checkpoint.folder import damage
from armd_dist.checkpoint.tensors import load_model
from armd_dist.cli.main import app
from armd_dist.errors import ArmdError, ConfigError, IncomingError
from armd_dist.export.incoming.write import import_model
from armd_dist.export.write import export_checkpoint
from armd_dist.model.armd import ARMD
from armd_dist.model.config import ModelConfig
from armd_dist.model.layers import PlainLayers
from armd_dist.model.layout import lay_out
from armd_dist.training.weights_from import name_there
from data_pipeline.errors import DataError

BOS = 0


@pytest.fixture(scope="module", params=SHAPES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, Path]:
    """The model in transformers, its folder, and the checkpoint made of it."""
    base = tmp_path_factory.mktemp(request.param)
    (base / "published").mkdir()
    model = publish(base / "published", request.param)
    done = import_model(base / "published", base / "imported")
    assert done.difference is not None
    return model, base / "published", base / "imported"


def with_streams(checkpoint: Path, layers: int) -> ARMD:
    """The network with so many two-stream layers, its weights by their places, as weights_from takes them."""
    network, run, _ = load_model(checkpoint)
    config = run.model.model_copy(update={"two_stream_layers": layers, "pad_vocab_to": 1})
    made, there = ARMD(config, PlainLayers()), network.state_dict()
    made.load_state_dict({name: there[name_there(name, layers, 0)] for name in made.state_dict()})
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("two_stream_layers", [0, 1, 2, 3])
def test_left_to_right_it_is_the_ar_model(two_stream_layers: int, pair: tuple[Any, Path, Path]) -> None:
    """All of the length that a learned position exists for."""
    model, _, checkpoint = pair
    network = with_streams(checkpoint, two_stream_layers)
    ids = torch.randint(1, VOCAB, (2, POSITIONS), generator=torch.Generator().manual_seed(3))
    places = torch.arange(1, POSITIONS + 1).expand_as(ids)
    found = network(lay_out(ids, places, places, BOS)).transpose(0, 1)
    with torch.no_grad():
        wanted = model(torch.cat((torch.full((2, 1), BOS), ids[:, :-1]), dim=1)).logits
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert wanted.std() > 0.3


def test_it_is_a_checkpoint_as_any_other(pair: tuple[Any, Path, Path]) -> None:
    _, published, checkpoint = pair
    assert damage(checkpoint) is None
    assert not list(checkpoint.parent.glob(".*"))
    _, run, _ = load_model(checkpoint)
    usual = 4096 if "grouped" in checkpoint.parent.name else POSITIONS
    assert (run.model.max_sequence_length, run.model.two_stream_layers, run.model.vocab_size) == (usual, 0, VOCAB)
    with pytest.raises(IncomingError, match="imported: exists; choose another folder"):
        import_model(published, checkpoint)


def test_export_import_export_is_the_identity(pair: tuple[Any, Path, Path], tmp_path: Path) -> None:
    _, _, checkpoint = pair
    for dtype in ("float32", "bfloat16"):
        first, again, second = (tmp_path / f"{dtype}-{name}" for name in ("first", "again", "second"))
        assert export_checkpoint(checkpoint, first, "100KB", dtype=dtype)
        import_model(first, again)
        assert export_checkpoint(again, second, "100KB", dtype=dtype, check=False)
        files = [sorted(path.glob("*.safetensors")) for path in (first, second)]
        assert [file.name for file in files[0]] == [file.name for file in files[1]] != []
        assert all(one.read_bytes() == other.read_bytes() for one, other in zip(*files, strict=True))
        assert (first / "tokenizer.model").read_bytes() == (second / "tokenizer.model").read_bytes()


def test_an_export_of_a_run_comes_back_as_it_was(trained: Path, tiny_export: Path, tmp_path: Path) -> None:
    import_model(tiny_export, tmp_path / "again")
    (before, run, _), (after, other, _) = load_model(trained), load_model(tmp_path / "again")
    assert run.model == other.model
    assert (run.data.sequence_length, run.data.attention) == (other.data.sequence_length, other.data.attention)
    assert all(torch.equal(after.state_dict()[name], weight) for name, weight in before.state_dict().items())
    assert export_checkpoint(tmp_path / "again", tmp_path / "export")
    assert (tmp_path / "export" / "model.safetensors").read_bytes() == (tiny_export / "model.safetensors").read_bytes()
    trained_then, now = (
        json.loads((out / "config.json").read_text())["trained"] for out in (tiny_export, tmp_path / "export")
    )
    assert trained_then | {"checkpoint_sha256": ""} == now | {"checkpoint_sha256": ""}


def settings(**changes: Any) -> Callable[[Path], None]:
    """Other settings in config.json; None takes one out."""

    def change(folder: Path) -> None:
        found = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps({key: value for key, value in found.items() if value != "gone"}))

    return change


def tensors(**changes: Any) -> Callable[[Path], None]:
    """Other tensors; None takes one out."""

    def change(folder: Path) -> None:
        found = load_file(folder / "model.safetensors") | changes
        save_file({k: v for k, v in found.items() if v is not None}, folder / "model.safetensors")

    return change


@pytest.mark.parametrize(
    ("harm", "kind", "problem"),
    [
        (
            settings(model_type="mamba"),
            IncomingError,
            "is of model_type=mamba; give a model of one of gpt2, llama, armd",
        ),
        (
            settings(activation_function="gelu"),
            ConfigError,
            "activation_function=gelu: is nothing that the network here",
        ),
        (
            settings(scale_attn_by_inverse_layer_idx=True),
            ConfigError,
            "scale_attn_by_inverse_layer_idx=True: is nothing",
        ),
        (
            settings(quantization_config={"bits": 4}),
            ConfigError,
            "quantization_config={'bits': 4}: is nothing that the",
        ),
        (settings(n_layer="3"), IncomingError, "transformers cannot load it ("),
        (settings(n_embd="gone"), IncomingError, "is not what a gpt2 has (KeyError('n_embd'))"),
        (settings(n_layer=2), IncomingError, "has tensors that a network of its settings does not (transformer.h.2."),
        (settings(n_layer=4), IncomingError, "lacks the tensor transformer.h.3.ln_1.weight that"),
        (settings(n_inner=64), IncomingError, "has shape (32, 128) instead of (32, 64)"),
        (settings(vocab_size=299), IncomingError, "its tokenizer has 300 tokens and its embedding 299 rows"),
        (tensors(lora=torch.zeros(2)), IncomingError, "does not (lora)"),
        (lambda folder: (folder / "config.json").write_text("{"), IncomingError, "config.json: cannot be read"),
        (lambda folder: (folder / "config.json").unlink(), IncomingError, "config.json: cannot be read"),
        (lambda folder: (folder / "model.safetensors").unlink(), IncomingError, "save it with save_pretrained"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), IncomingError, "safetensors cannot be read"),
        (lambda folder: (folder / "vocab.json").unlink(), DataError, "holds no Hugging Face tokenizer"),
    ],
)
def test_what_cannot_be_imported_is_told(
    harm: Callable[[Path], Any], kind: type[ArmdError], problem: str, published: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(published, tmp_path / "copy"))
    harm(folder)
    with pytest.raises(kind) as raised:
        import_model(folder, tmp_path / "out")
    assert problem in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    publish(folder, "gpt2")
    return folder


def test_shards_in_bfloat16_as_large_models_come(tmp_path: Path) -> None:
    model = publish(tmp_path / "whole", "llama_grouped").bfloat16()
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    shutil.copytree(
        tmp_path / "whole",
        tmp_path / "shards",
        dirs_exist_ok=True,
        ignore=lambda *_: ["model.safetensors", "config.json"],
    )
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert import_model(tmp_path / "shards", tmp_path / "out").difference is not None
    tokens = load_model(tmp_path / "out")[0].tokens.get_parameter("weight")
    assert torch.equal(tokens, model.get_input_embeddings().weight.float())
    next((tmp_path / "shards").glob("model-00002*")).unlink()
    with pytest.raises(IncomingError, match=r"model-00002.*cannot be read .*; download it again"):
        import_model(tmp_path / "shards", tmp_path / "again")


def test_a_model_that_computes_something_else_is_found_out(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ModelConfig.model_validate
    monkeypatch.setattr(ModelConfig, "model_validate", lambda given: whole(given | {"norm_eps": 0.1}))
    with pytest.raises(IncomingError, match=r"does not compute what transformers does \(logits differ by"):
        import_model(published, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_shorter_network_and_its_settings(published: Path, tmp_path: Path) -> None:
    ask = ["import", str(published), str(tmp_path / "out"), "--max-sequence-length"]
    error = CliRunner().invoke(app, [*ask, "25"]).exception
    assert str(error) == "--max-sequence-length=25: is longer than the model was made for, 24; use at most 24"
    done = CliRunner().invoke(app, [*ask, "10"])
    assert done.exit_code == 0, done.exception
    assert "logits differ from transformers' by" in done.stdout
    for line in ("vocab_size: 300", "max_sequence_length: 10", "bias: true", "query_place: previous"):
        assert f"\n  {line}\n" in done.stdout
    assert load_model(tmp_path / "out")[0].positions.get_parameter("weight").shape == (11, 32)


def test_names_as_gpt2_itself_was_published(published: Path, tmp_path: Path) -> None:
    """Without the head's class around the network, and with its masks among the tensors."""
    folder = Path(shutil.copytree(published, tmp_path / "copy"))
    weights = load_file(folder / "model.safetensors")
    plain = {name.removeprefix("transformer."): weight for name, weight in weights.items()}
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, POSITIONS, POSITIONS).tril() for layer in range(3)}
    save_file(plain | masks, folder / "model.safetensors", {"format": "pt"})
    for name, source in (("plain", folder), ("usual", published)):
        assert import_model(source, tmp_path / name).difference is not None
    first, second = (load_model(tmp_path / name)[0].state_dict() for name in ("plain", "usual"))
    assert all(torch.equal(first[name], weight) for name, weight in second.items())


def test_a_disk_that_fills_up_leaves_nothing(published: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "100k") as disk:
        with pytest.raises(
            IncomingError, match=r"out: cannot be written \(.*No space left on device\); nothing is left"
        ):
            import_model(published, disk / "out", check=False)
        assert list(disk.iterdir()) == []


def test_rows_behind_the_tokenizer_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "published").mkdir()
    publish(tmp_path / "published", "llama", vocab_size=320)
    import_model(tmp_path / "published", tmp_path / "out")
    network, run, _ = load_model(tmp_path / "out")
    assert (run.model.vocab_size, network.tokens.get_parameter("weight").shape[0]) == (VOCAB, VOCAB)
