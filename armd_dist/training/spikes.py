"""Loss spikes: steps whose loss stands far above those before it. A pure function of what metrics.jsonl says."""

import json
import math
from collections import deque
from pathlib import Path
from statistics import median

WINDOW = 128  # losses that say what is usual
NORMAL = 1.4826  # from the median absolute deviation to the standard deviation of a normal distribution
LEAST = 1e-3  # of the median: smaller deviations are no measure


class Spikes:
    """What losses are usual, by the last WINDOW of the curriculum's position: median and median absolute deviation.

    They are robust: a spike moves them by next to nothing, and a loss that stays up becomes usual. Before the window is
    full nothing is a spike; it begins anew where phase or rho change, as these raise the loss on purpose.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.position: tuple[str, int] | None = None
        self.losses: deque[float] = deque(maxlen=WINDOW)

    @classmethod
    def from_metrics(cls, factor: float, file: Path) -> "Spikes":
        """As it stands behind the last line of a metrics.jsonl."""
        spikes = cls(factor)
        for line in reversed(file.read_text().splitlines()):
            step = json.loads(line)
            position, loss = (step["phase"], step["rho"]), step.get("loss", math.nan)
            spikes.position = spikes.position or position
            if position != spikes.position or len(spikes.losses) == WINDOW:
                break
            if math.isfinite(loss):
                spikes.losses.appendleft(loss)
        return spikes

    def note(self, position: tuple[str, int], loss: float) -> str | None:
        """Takes the next step's loss, at the curriculum's (phase, rho); says what is wrong with it, if it spikes."""
        if position != self.position:
            self.position = position
            self.losses.clear()
        if not math.isfinite(loss):
            return None
        told = None
        if len(self.losses) == WINDOW:
            usual = median(self.losses)
            deviation = max(NORMAL * median(abs(each - usual) for each in self.losses), LEAST * abs(usual))
            if loss > usual + self.factor * deviation:
                told = f"loss={loss:.4f} is a spike: the last {WINDOW} were {usual:.4f} +- {deviation:.4f}"
        self.losses.append(loss)
        return told
