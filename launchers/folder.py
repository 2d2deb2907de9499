"""Where a job keeps its script, its pickles and the log of each process: a folder of its own in the run's."""

import shutil
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from armd_dist.run import Run


def fresh_folder(run_dir: Path) -> Path:
    """A folder in run_dir/launch that does not exist yet, named by the time.

    One for each job: ids come again (process numbers, a Slurm that was set up anew), and with them would come
    the results of an older job.
    """
    name = datetime.now().strftime("%Y%m%d-%H%M%S")
    names = (name if attempt == 0 else f"{name}-{attempt}" for attempt in count())
    return next(path for path in (run_dir / "launch" / name for name in names) if not path.exists())


def forget_folder(folder: Path) -> None:
    """Removes the files of a job that never started, and the folders above that were made for it alone."""
    shutil.rmtree(folder)
    for path in list(folder.parents)[:2]:
        if any(path.iterdir()):
            return
        path.rmdir()


def settings(run: Run) -> dict[str, Any]:
    """The run as plain values, which a job pickles."""
    return run.model_dump(mode="json")
