"""The work of a job, as it is pickled here and called on every process there."""

import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit.core.utils import DelayedSubmission

from armd_dist.config import check_tree
from armd_dist.errors import ArmdError, ConfigError, RunFolderError, Stopped
from armd_dist.run import Run
from armd_dist.scaling.stages import print_stages
from data_pipeline.errors import DataError
from launchers.environment import export_place
from launchers.requeue import Attempt

# Another start would meet these again.
FINAL = (ConfigError, RunFolderError, DataError)


@dataclass(frozen=True)
class TrainingJob:
    """Trains the run that `tree`, its plain settings, describes.

    Plain settings rather than a Run: they survive in the pickle while classes change. A job that is started again
    continues from its newest checkpoint.
    """

    tree: dict[str, Any]

    def __call__(self) -> None:
        """Runs in every process; returns when training is done. Raises what training raises.

        On Slurm, a signal that asks for an end ends the process instead, and the job goes back into the queue.
        """
        export_place()
        attempt = Attempt.here()
        try:
            with attempt.requeued_on_signal() if attempt else nullcontext():
                self._train(attempt)
        except (ArmdError, DataError) as error:
            if attempt is not None and isinstance(error, FINAL):
                attempt.note("refused", None, reason=str(error))
            # First in the log as it would stand on a terminal; raised on, since the launcher learns of it that way.
            print("\n".join(f"error: {line}" for line in str(error).splitlines()), file=sys.stderr, flush=True)
            # Where in our code a user's mistake was noticed helps nobody.
            raise error.with_traceback(None) from None

    def checkpoint(self) -> DelayedSubmission:
        """What submitit starts next time where a signal comes before this job listens: the same."""
        return DelayedSubmission(self)

    def _train(self, attempt: Attempt | None) -> None:
        world_size = int(os.environ["WORLD_SIZE"])
        run = _continued(check_tree(self.tree, world_size), attempt)
        if attempt is not None:
            attempt.begin(Path(run.run.dir))
        print_stages(run, world_size)

        # Only now: torch reads the environment when it is imported.
        from armd_dist.training.loop import train

        try:
            train(run)
        except Stopped as stopped:
            if attempt is None:
                raise
            attempt.hand_over(str(stopped), stopped.step)


def _continued(run: Run, attempt: Attempt | None) -> Run:
    """The run as it was asked for; but what a job has begun, its next start goes on with."""
    if attempt is None or attempt.number == 0 or run.checkpoint.resume != "never":
        return run
    return run.model_copy(update={"checkpoint": run.checkpoint.model_copy(update={"resume": "auto"})})
