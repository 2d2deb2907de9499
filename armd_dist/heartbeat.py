"""The heartbeat of a run: a small file in its folder that says how far it is, for who looks at it from elsewhere."""

import json
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, Self

from armd_dist.errors import RunFolderError, describe
from data_pipeline.files import write_atomically

FILE = "heartbeat.json"
EVERY_S = 10.0
# Who has said nothing for so long has gone without a word, or its file system stands.
LATE_S = 6 * EVERY_S

State = Literal["running", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class Heartbeat:
    """What the main process last said of itself. Times are seconds since 1970, steps are finished steps.

    state: `finished` has reached `stop_at`; `stopped` was told to by a signal, and has saved; `failed` says in `reason`
    why. One that was killed says `running` for ever, with an old `time`.
    stop_at: the step at which this start ends; first_step: the one at which it began. loss: nats per token, of the last
    step; it and tokens_per_second are None before the first step. process: its id on `host`; job: Slurm's number.
    """

    time: float
    state: State
    reason: str | None
    step: int
    stop_at: int
    phase: str
    loss: float | None
    tokens_per_second: float | None
    started: float
    first_step: int
    host: str
    process: int
    job: str | None
    world_size: int

    @classmethod
    def read(cls, run_dir: Path) -> Self | None:
        """The newest of the run in `run_dir`; None where it has not begun. Raises RunFolderError."""
        file = run_dir / FILE
        try:
            return cls(**json.loads(file.read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise RunFolderError(
                f"{file}: cannot be read as a heartbeat ({describe(error)}); a run that goes on writes it anew every "
                f"{EVERY_S:.0f} s, of another one it may be deleted"
            ) from error

    def write(self, run_dir: Path) -> None:
        """A reader finds the one before or this one, whole. Raises OSError."""
        write_atomically(run_dir / FILE, json.dumps(asdict(self)).encode())

    @property
    def age_s(self) -> float:
        """Seconds since it was written, by this machine's clock."""
        return max(0.0, time.time() - self.time)

    @property
    def is_late(self) -> bool:
        """Whether it says that it runs, but has not said so for a minute."""
        return self.state == "running" and self.age_s > LATE_S

    @property
    def eta_s(self) -> float | None:
        """Seconds to `stop_at` from `time` on, at the mean pace of this start with all that it did beside its steps.

        None where it does not run or has no step yet.
        """
        done = self.step - self.first_step
        if self.state != "running" or done <= 0:
            return None
        return (self.stop_at - self.step) * (self.time - self.started) / done

    def describe(self) -> str:
        """One line for a person."""
        where = f"step {self.step} of {self.stop_at}"
        if self.is_late:
            since = datetime.fromtimestamp(self.time).strftime("%Y-%m-%d %H:%M:%S")
            return f"no word since {since}, then at {where}, {self.phase}"
        if self.state != "running":
            return f"{self.state} at {where}" + (f": {self.reason}" if self.reason else "")
        said = [where, self.phase]
        if self.loss is not None:
            said.append(f"loss {self.loss:.4f}")
        if self.tokens_per_second is not None:
            said.append(f"{self.tokens_per_second:,.0f} tokens/s")
        if self.eta_s is not None:
            said.append(f"{duration(self.eta_s)} left")
        return ", ".join(said)


def duration(seconds: float) -> str:
    """As `3 d 4 h`, `2 h 5 min`, `5 min` or `20 s`."""
    minutes, hours, days = (int(seconds // unit) for unit in (60, 3600, 86400))
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{int(seconds)} s"
