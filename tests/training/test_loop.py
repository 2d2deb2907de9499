"""What the loop says of its steps: their speed, and how to go on where numbers are lost."""

import shutil
import subprocess
import sys
from pathlib import Path

from ranks import armd, environment, metrics

from armd_dist.config import load_run
from armd_dist.training.health import way_on

SLOW_SAVES = """
import sys, time
from pathlib import Path
from armd_dist.config import load_run
from armd_dist.training import loop
save = loop.Saver.save
def slowly(*arguments):
    save(*arguments)
    time.sleep(5)
loop.Saver.save = slowly
loop.train(load_run(Path(sys.argv[1]), sys.argv[2:]))
"""


def test_speed_leaves_out_the_time_of_saving(tiny_config: Path, tmp_path: Path) -> None:
    overrides = [f"run.dir={tmp_path}", "checkpoint.every=2", "training.stop_at=3"]
    words = [sys.executable, "-c", SLOW_SAVES, str(tiny_config), *overrides]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run = load_run(tiny_config)
    after_saving = metrics(tmp_path)[2]["tokens_per_second"]
    assert run.training.global_batch_size * run.data.sequence_length / after_saving < 5


def test_the_way_on_from_lost_numbers_is_one(trained: Path, tiny_config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    shutil.rmtree(folder / "checkpoints" / "step-00000020")
    run = load_run(tiny_config, [f"run.dir={folder}"])
    told = way_on(run)
    assert told.startswith("go on with checkpoint.resume=")
    overrides = told.partition("go on with ")[2].partition(",")[0].split()
    assert [text.partition("=")[0] for text in overrides] == ["checkpoint.resume", "training.learning_rate"]
    done = armd("train", tiny_config, f"run.dir={folder}", *overrides)
    assert done.returncode == 0, done.stderr
    assert [line["learning_rate"] for line in metrics(folder)][-1] < metrics(trained)[-1]["learning_rate"]


def test_before_the_first_checkpoint_there_is_another_way(tiny_config: Path, tmp_path: Path) -> None:
    run = load_run(tiny_config, [f"run.dir={tmp_path}"])
    assert way_on(run).startswith("start in another run.dir with training.learning_rate=0.005")
