"""The work of a job, as it is pickled here and called on every process there."""

import os
import sys
from dataclasses import dataclass
from typing import Any

from armd_dist.config import check_tree
from armd_dist.errors import ArmdError
from armd_dist.scaling.stages import print_stages
from data_pipeline.errors import DataError
from launchers.environment import export_place


@dataclass(frozen=True)
class TrainingJob:
    """Trains the run that `tree`, its plain settings, describes.

    Plain settings rather than a Run: they survive in the pickle while classes change. A job that is started again
    continues from its newest checkpoint, as checkpoint.resume=auto says.
    """

    tree: dict[str, Any]

    def __call__(self) -> None:
        """Runs in every process; returns when training is done. Raises what training raises."""
        export_place()
        try:
            world_size = int(os.environ["WORLD_SIZE"])
            run = check_tree(self.tree, world_size)
            print_stages(run, world_size)

            # Only now: torch reads the environment when it is imported.
            from armd_dist.training.loop import train

            train(run)
        except (ArmdError, DataError) as error:
            # First in the log as it would stand on a terminal; raised on, since the launcher learns of it that way.
            print("\n".join(f"error: {line}" for line in str(error).splitlines()), file=sys.stderr, flush=True)
            # Where in our code a user's mistake was noticed helps nobody.
            raise error.with_traceback(None) from None
