"""Back to the checkpoint before a loss spike, and on from there with other samples.

As PaLM was trained on (arXiv 2204.02311, section 5.1), by hand and from about 100 steps before the spike; to take the
newest checkpoint, and to leave out what it has not seen up to the spike, is our choice.
"""

from dataclasses import dataclass
from pathlib import Path

from armd_dist.checkpoint.folder import step_folder
from armd_dist.errors import TrainingError
from armd_dist.run import Run
from armd_dist.training.batches import Begun


@dataclass(frozen=True)
class Rewind:
    """Where training goes on after a spike. `begun`: the checkpoint's step, and the samples consumed at the spike."""

    checkpoint: Path
    begun: Begun


class Rewinds:
    """Counts the rewinds to one checkpoint: where other samples spike too, its weights are the reason."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.to_step, self.count = -1, 0

    def find(self, step: int, samples: int, newest: int | None) -> tuple[Rewind | None, str]:
        """The way back from a spike in `step` (0-based), and what to say.

        samples: consumed by then; newest: the step of the newest checkpoint. None where there is no checkpoint yet.
        Raises TrainingError after health.max_rewinds to the same one.
        """
        if newest is None:
            return None, f"step {step + 1}: there is no checkpoint yet to go back to"
        if newest != self.to_step:
            self.to_step, self.count = newest, 0
        self.count += 1
        most, checkpoint = self.run.health.max_rewinds, step_folder(Path(self.run.run.dir), newest)
        if self.count > most:
            raise TrainingError(
                f"step {step + 1}: spikes again after {most} rewind(s) to {checkpoint} (health.max_rewinds): other "
                "samples do not help; start from an older checkpoint in another run.dir with checkpoint.resume=PATH, "
                "or with a lower training.learning_rate"
            )
        said = f"going back to {checkpoint} ({self.count} of {most}), and on behind sample {samples - 1}"
        return Rewind(checkpoint, Begun(newest, samples)), f"step {step + 1}: {said}"
