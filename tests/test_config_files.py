"""What a YAML file and overrides make together, and what is told of those that cannot be read."""

from pathlib import Path

import pytest
from settings import load, problems, tree

from armd_dist.config import load_run, to_yaml
from armd_dist.errors import ConfigError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.yaml"


def test_sound_settings_and_their_defaults(path: Path) -> None:
    run = load(path, tree(), world_size=2)
    assert (run.model.ffn_hidden_size, run.model.two_stream_layers, run.parallel.tensor) == (256, 2, 1)
    assert run.training.betas == (0.9, 0.999)


def test_overrides_win_over_the_file(path: Path) -> None:
    run = load(path, tree(), ["model.num_layers=6", "orders.strided_streams=[1,2]", "checkpoint.every=7"])
    assert (run.model.num_layers, run.model.two_stream_layers, run.checkpoint.every) == (6, 3, 7)
    assert run.orders.strided_streams == [1, 2]


def test_a_mixture_of_an_override_replaces_the_one_of_the_file(path: Path) -> None:
    def mixture(*overrides: str) -> dict[str, float] | None:
        return load(path, tree(orders={"mixture": {"left_to_right": 1}}), list(overrides)).orders.mixture  # type: ignore[return-value]

    assert mixture() == {"left_to_right": 1}
    assert mixture("orders.mixture={any_order: 1}") == mixture("orders.mixture.any_order=1") == {"any_order": 1}
    assert mixture("orders.mixture.any_order=1", "orders.mixture.strided=2") == {"any_order": 1, "strided": 2}
    assert mixture("orders.mixture=null") is None


def test_resolved_settings_read_back_as_the_same(path: Path, tmp_path: Path) -> None:
    run = load(path, tree())
    again = tmp_path / "resolved.yaml"
    again.write_text(to_yaml(run))
    assert load_run(again) == run


def test_quickstart_is_sound() -> None:
    quickstart = Path(__file__).parent.parent / "configs" / "quickstart.yaml"
    assert load_run(quickstart, world_size=1).model.num_layers == 4


@pytest.mark.parametrize("override", ["model.num_layers", "=3", "--steps=3"])
def test_malformed_override(path: Path, override: str) -> None:
    found = problems(path, tree(), [override, "model.num_layers=6"])
    assert found == [f"override={override}: is not of the form a.b=c; write model.num_layers=6"]


def test_override_of_an_unknown_setting(path: Path) -> None:
    assert problems(path, tree(), ["model.num_head=3"]) == [
        "model.num_head=3: is not a setting; did you mean model.num_layers?"
    ]


def test_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path / "no.yaml", tmp_path):
        with pytest.raises(ConfigError) as error:
            load_run(path)
        assert str(error.value) == f"CONFIG={path}: is not a file; give the path of a YAML file, see configs/"


@pytest.mark.parametrize("content", [
    b"model: [1\n", b"model:\n\tnum_layers: 3\n", b"run: {dir: a}\nrun: {dir: b}\n", b"run: {dir: '${nope}'}\n",
    b"run: {dir: caf\xe9}\n", b"- 1\n- 2\n",
])  # fmt: skip
def test_file_that_cannot_be_read(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        load_run(path)
    assert str(error.value).startswith(f"CONFIG={path}: ")
    assert "\n" not in str(error.value)


def test_override_inside_a_list(path: Path) -> None:
    """OmegaConf cannot merge into a list by index: an error of the user's to mend, not a traceback."""
    with pytest.raises(ConfigError):
        load(path, tree(orders={"strided_streams": [1, 2]}), ["orders.strided_streams.0=3"])


def test_empty_file(path: Path) -> None:
    path.write_text("")
    with pytest.raises(ConfigError) as error:
        load_run(path)
    assert [problem.path for problem in error.value.problems] == ["run", "model", "data", "training"]
