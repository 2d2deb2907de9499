"""Errors that a user can mend. The command line prints them without a traceback and exits with code 2."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals


class ArmdError(Exception):
    """Base of every error that is the user's to mend."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a setting: where it stands, what it says, the rule it breaks, what would be right."""

    path: str
    value: object
    rule: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}={self.value}: {self.rule}; {self.remedy}"


class ConfigError(ArmdError):
    """All problems of a configuration at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class RunFolderError(ArmdError):
    """A run folder that cannot be used as asked; the message says what would work."""


class CheckpointError(ArmdError):
    """A checkpoint that is missing, incomplete, damaged or of another model."""


class TrainingError(ArmdError):
    """Training that cannot go on."""


class Stopped(Exception):
    """Training that a signal ended before its last step, with a checkpoint: no error, and not done either."""

    def __init__(self, step: int, number: int, checkpoint: Path) -> None:
        self.step, self.signal, self.checkpoint = step, Signals(number).name, checkpoint
        super().__init__(f"{self.signal}: stopped after step {step}, saved as {checkpoint}; the same command continues")


class ExportError(ArmdError):
    """An export that cannot be written or does not equal its checkpoint."""


class IncomingError(ArmdError):
    """A pretrained model that cannot be imported."""


class EvaluationError(ArmdError):
    """An evaluation that cannot be done as asked."""


class GenerationError(ArmdError):
    """A request for text that the model cannot answer."""


def describe(error: BaseException) -> str:
    """One line; of the operating system's errors the file and what is wrong with it."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def tell_launcher(text: str) -> None:
    """Leaves the reason where torchrun looks for it; its table of failed processes then says more than an exit code."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file is not None:
        details = {"py_callstack": text, "timestamp": str(int(time.time()))}
        Path(file).write_text(json.dumps({"message": {"message": text, "extraInfo": details}}))
