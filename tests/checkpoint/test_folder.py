"""Completeness, checksums and retention, on folders of small files."""

import json
from pathlib import Path

import pytest
from fake_checkpoints import fake_checkpoint

from armd_dist.checkpoint.folder import (
    COMPLETE,
    Sum,
    TrainingState,
    complete_checkpoints,
    damage,
    finish,
    flaw,
    partial_folder,
    read_seal,
    step_folder,
    write_text,
)
from armd_dist.checkpoint.retention import delete, leftovers, surplus
from armd_dist.errors import CheckpointError

BREAKING = {
    "truncated": (lambda file: file.write_bytes(file.read_bytes()[:150]), "has 150 bytes instead of 200", True),
    "flipped": (lambda file: file.write_bytes(b"\1" + file.read_bytes()[1:]), "has changed since it was", False),
    "deleted": (lambda file: file.unlink(), "is missing", True),
}


@pytest.mark.parametrize("name", BREAKING)
def test_damage_names_the_file(tmp_path: Path, name: str) -> None:
    breaking, message, at_a_look = BREAKING[name]
    folder = fake_checkpoint(tmp_path, 5)
    assert damage(folder) is None
    file = folder / "state" / "__0_0.distcp"
    breaking(file)
    assert f"{file} {message}" in (damage(folder) or "")
    assert (flaw(folder) is not None) == at_a_look


def test_every_byte_of_a_seal_matters(tmp_path: Path) -> None:
    folder = fake_checkpoint(tmp_path, 5)
    seal = folder / COMPLETE
    for content in ("", "{", "[]", '{"format": 2}', '{"format": 3, "files": {}}'):
        seal.write_text(content)
        assert str(seal) in (damage(folder) or "")
    seal.unlink()
    assert f"{seal} is missing" in (damage(folder) or "")


def test_a_seal_of_the_first_format_is_read(tmp_path: Path) -> None:
    folder = fake_checkpoint(tmp_path, 5)
    sums = {name: one.sha256 for name, one in read_seal(folder).items()}
    (folder / COMPLETE).write_text(json.dumps(sums))
    assert damage(folder) is None
    (folder / "run.yaml").write_text("run: []\n")
    assert damage(folder) == f"{folder / 'run.yaml'} has changed since it was written"


def test_a_file_that_another_process_wrote_must_be_there_in_full(tmp_path: Path) -> None:
    partial = partial_folder(tmp_path, 5)
    (partial / "state").mkdir(parents=True)
    (partial / "state" / "__1_0.distcp").write_bytes(b"1234")
    state = TrainingState(5, 40, 0, "left_to_right", 1, "m", "t", {}, {})
    with pytest.raises(CheckpointError, match=r"__1_0\.distcp has 4 bytes instead of 5"):
        finish(partial, step_folder(tmp_path, 5), state, {"state/__1_0.distcp": Sum(5, "")})
    (partial / "state" / "__1_0.distcp").unlink()
    with pytest.raises(CheckpointError, match=r"__1_0\.distcp is missing"):
        finish(partial, step_folder(tmp_path, 5), state, {"state/__1_0.distcp": Sum(5, "")})
    assert complete_checkpoints(tmp_path) == []


def steps(paths: list[Path]) -> list[int]:
    return [int(path.name[5:]) for path in paths]


def test_what_may_go(tmp_path: Path) -> None:
    folders = [fake_checkpoint(tmp_path, step) for step in (10, 20, 30, 40, 50)]
    assert steps(surplus(tmp_path, 2, None)) == [10, 20, 30]
    assert steps(surplus(tmp_path, 1, 20)) == [10, 30]
    assert surplus(tmp_path, 9, None) == []
    # Two damaged ones neither count nor go: 30 is now the newest sound one.
    (folders[4] / "state" / "__0_0.distcp").unlink()
    (folders[3] / COMPLETE).unlink()
    assert steps(surplus(tmp_path, 1, None)) == [10, 20]
    for folder in folders[:2]:
        (folder / "run.yaml").write_text("")
    assert surplus(tmp_path, 1, None) == []


def test_a_deletion_that_was_interrupted_leaves_nothing_that_looks_like_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [fake_checkpoint(tmp_path, step) for step in (10, 20)]

    def killed(_: Path, **__: object) -> None:
        if (tmp_path / "checkpoints" / ".step-00000010.deleted").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        delete(folders[0])
    assert complete_checkpoints(tmp_path) == [folders[1]]
    assert [path.name for path in leftovers(tmp_path)] == [".step-00000010.deleted"]


def test_a_small_file_that_finds_no_room_is_named() -> None:
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        write_text(Path("/dev/full"), "text")
