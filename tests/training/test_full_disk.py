"""A disk that fills up under a real run: what is complete stays, the error names the file, and room lets it go on."""

import re
from pathlib import Path

from disks import remount, small_disk
from ranks import armd, metrics

from armd_dist.checkpoint.folder import complete_checkpoints, damage


def test_a_full_disk_costs_the_steps_behind_the_newest_checkpoint(tiny_config: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "2500k") as disk:
        command = ["train", tiny_config, f"run.dir={disk / 'run'}"]
        done = armd(*command)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        # A checkpoint has some 0.7 MB. Metrics may run out of room before it does.
        assert re.search(rf"^error: {disk}/run/.*No space left on device", done.stderr, re.M), done.stderr
        found = complete_checkpoints(disk / "run")
        assert 2 <= len(found) <= 3
        assert not any(damage(path) for path in found)
        remount(disk, "size=9m")
        done = armd(*command)
        assert done.returncode == 0, done.stderr
        assert f"continuing from {found[-1]} " in done.stderr
        assert [line["step"] for line in metrics(disk / "run")] == list(range(1, 21))
