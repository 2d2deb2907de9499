"""Two launchers, as on two machines, train what one launcher with as many processes does."""

import subprocess
import sys
from pathlib import Path

from ranks import TIMEOUT_SECONDS, armd, environment, free_port, metrics

STEPS = 4


def losses(run_dir: Path) -> list[tuple[float, float]]:
    return [(line["loss"], line["grad_norm"]) for line in metrics(run_dir)]


def test_two_launchers_train_what_one_does(tiny_config: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    settings = ["parallel.tensor=2", f"training.stop_at={STEPS}"]
    done = armd("train", tiny_config, f"run.dir={one}", *settings, processes=2)
    assert done.returncode == 0, done.stderr
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-id=two"]
    launcher += ["--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{free_port()}", "--local-addr=localhost"]
    words = [*launcher, "-m", "armd_dist", "train", str(tiny_config), f"run.dir={two}", *settings]
    launchers = [subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        said = [launcher.communicate(timeout=TIMEOUT_SECONDS)[1] for launcher in launchers]
    finally:
        for process in launchers:
            process.kill()
    assert [process.returncode for process in launchers] == [0, 0], "\n".join(said)
    assert sum("2 process(es)" in text for text in said) == 1
    assert len(losses(two)) == STEPS
    assert losses(two) == losses(one)
