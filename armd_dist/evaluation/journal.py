"""What has been scored or written, a line for each batch, so that an evaluation goes on where it was killed."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from armd_dist.errors import EvaluationError

# Of one document's part in an item: tokens, bytes, tokens of the heads, their nats, nats under each draw, whether all
# of its tokens were the likeliest ones.
Part = tuple[int, int, int, float, list[float], bool]
# Of one item: its parts, and whether its last document ends in it.
Record = tuple[list[Part], bool]
# Of one text that a model wrote: its new tokens, passes, and seconds.
Text = tuple[list[int], int, float]
Item = TypeVar("Item")  # one of these two


def key_of(settings: dict[str, Any]) -> str:
    """Of everything that the numbers of a line depend on."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Journal(Generic[Item]):
    """A file of lines that begin with a key; lines of other evaluations may stand beside ours, and stay."""

    path: Path

    def read(self, key: str) -> dict[int, list[Item]]:
        """Items of every batch that is there under this key. A line that a kill tore is cut off.

        Raises EvaluationError where the file cannot be used.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            content = self.path.read_bytes() if self.path.exists() else b""
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                os.truncate(self.path, whole)
            lines = [json.loads(line) for line in content[:whole].splitlines()]
            return {line["batch"]: line["items"] for line in lines if line["key"] == key}
        except OSError as error:
            raise EvaluationError(f"--out {self.path.parent}: cannot be used ({error.strerror})") from error
        except (ValueError, KeyError, TypeError) as error:
            raise EvaluationError(f"{self.path}: is not what armd eval writes ({error}); remove it") from error

    def append(self, key: str, batch: int, items: list[Item]) -> None:
        line = json.dumps({"key": key, "batch": batch, "items": items}, separators=(",", ":"))
        with self.path.open("a") as file:
            file.write(line + "\n")
