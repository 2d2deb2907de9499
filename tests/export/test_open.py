"""What eval and generate make of a checkpoint or an export: the length that was trained, and damage that is told."""

import json
import shutil
from pathlib import Path

import pytest
from ranks import armd
from safetensors.torch import load_file, save_file

from armd_dist.cli.evaluate import evaluate
from armd_dist.cli.generate import generate
from armd_dist.errors import ArmdError, ConfigError, EvaluationError, ExportError
from armd_dist.export.open import open_model
from armd_dist.export.write import export_checkpoint


@pytest.fixture(scope="module")
def short(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on sequences of 16 tokens; its network has positions for 32."""
    folder = tmp_path_factory.mktemp("short") / "run"
    done = armd("train", tiny_config, f"run.dir={folder}", "data.sequence_length=16", "training.stop_at=1")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def export(short: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "export"
    assert export_checkpoint(short, out)
    return out


@pytest.fixture
def copy(export: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(export, tmp_path / "export"))


@pytest.mark.parametrize("kind", ["short", "export"])
def test_windows_are_as_long_as_training_was(
    kind: str, dataset: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(kind)
    for asked, length in ((None, 16), (32, 32), (4, 4)):
        evaluate(model, dataset / "held_out", streams="1", windows=2, out=tmp_path, sequence_length=asked, device="cpu")
        found = json.loads((tmp_path / "evaluation.json").read_text())
        assert found["sequence_length"] == length
        assert found["perplexity"]["left_to_right"]["tokens"] == 2 * length


def test_windows_longer_than_the_network_are_refused(short: Path, dataset: Path) -> None:
    with pytest.raises(
        EvaluationError, match="--sequence-length 33: is longer than the model's max_sequence_length=32"
    ):
        evaluate(short, dataset / "held_out", sequence_length=33, device="cpu")


def test_text_is_generated_on_the_device_that_is_asked_for(short: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate(short, max_new_tokens=4, device="cpu", as_json=True)
    assert len(json.loads(capsys.readouterr().out)["tokens"]) == 4
    for name in ("cuda:99", "nonsense"):
        with pytest.raises(ConfigError, match=rf"--device={name}: cannot be used here \(.*\); use --device cpu"):
            generate(short, device=name)


def settings_of(export: Path) -> dict[str, object]:
    return json.loads((export / "config.json").read_text())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"model_type": "gpt2"}', "is of model_type=gpt2; give an ARMD export"),
        ({"hidden_size": -2}, "hidden_size=-2"),
        ({"trained": {}}, "says nothing of trained.attention"),
        ({"trained": None}, "cannot be read"),
    ],
)
def test_damaged_settings_are_told(content: str | dict[str, object], problem: str, copy: Path) -> None:
    file = copy / "config.json"
    file.write_text(content if isinstance(content, str) else json.dumps(settings_of(copy) | content))
    with pytest.raises(ExportError) as raised:
        open_model(copy)
    assert str(raised.value).startswith(f"{file}: ")
    assert problem in str(raised.value)
    assert "armd export" in str(raised.value) or "give an ARMD export" in str(raised.value)


def test_weights_of_another_model_are_told(copy: Path) -> None:
    (file,) = copy.glob("*.safetensors")
    whole = file.read_bytes()
    weights = load_file(file)
    save_file({name: weight for name, weight in weights.items() if "norm" not in name}, file)
    refused(copy)
    file.write_bytes(whole[: len(whole) // 2])
    refused(copy)
    file.unlink()
    refused(copy)


def refused(export: Path) -> None:
    with pytest.raises(ArmdError, match="its safetensors are not the weights that"):
        open_model(export)
