"""A file of requests in, a file of answers out, a line each. What was killed goes on where it stopped."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from armd_dist.checkpoint.folder import COMPLETE, resolve_checkpoint
from armd_dist.errors import GenerationError
from armd_dist.generation.generate import Generator, Sample, answer
from armd_dist.generation.requests import Ordering, Prepared, Request, check_pieces, parse_infill, prepare
from armd_dist.generation.sampling import Sampling
from data_pipeline.files import sha256_of, write_atomically
from data_pipeline.tokenizer import Tokenizer

FIELDS = ("prompt", "infill", "seed", "max_new_tokens", "permutation")
EXAMPLE = '{"prompt": "Once upon"}'


def prepare_file(
    file: Path, tokenizer: Tokenizer, ordering: Ordering, longest: int, max_new_tokens: int, seed: int
) -> list[Prepared]:
    """All requests of a file, ready to decode. Raises GenerationError, with the line, before anything is decoded.

    longest: tokens that the model takes; the others as of `read_requests`.
    """
    prepared = []
    for number, request in read_requests(file, max_new_tokens, seed):
        try:
            prepared.append(prepare(request, tokenizer, ordering, longest))
        except GenerationError as error:
            raise GenerationError(f"{file}:{number}: {error}") from error
    return prepared


def weights_of(model: Path) -> str:
    """SHA-256 that tells the weights of a checkpoint or an export from others'."""
    if (model / "config.json").is_file():
        files = [model / "config.json", *sorted(model.glob("*.safetensors"))]
    else:
        files = [resolve_checkpoint(model) / COMPLETE]  # holds the checksums of all others
    return hashlib.sha256("".join(sha256_of(file) for file in files).encode()).hexdigest()


def read_requests(file: Path, max_new_tokens: int, seed: int) -> list[tuple[int, Request]]:
    """Requests of a JSONL file with their lines' numbers. Raises GenerationError.

    max_new_tokens, seed: of requests that name none; request n (from 0) then takes seed + n.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise GenerationError(f"--prompts {file}: cannot be read ({error})") from error
    requests = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            requests.append((number, _request(json.loads(line), max_new_tokens, seed + len(requests))))
        except (ValueError, GenerationError) as error:
            raise GenerationError(f"{file}:{number}: {error}") from error
    if not requests:
        raise GenerationError(f"--prompts {file}: is empty; write one object a line, such as {EXAMPLE}")
    return requests


def _request(line: Any, max_new_tokens: int, seed: int) -> Request:
    if not isinstance(line, dict) or ("prompt" in line) == ("infill" in line):
        raise GenerationError(f'needs "prompt" or "infill", one of the two, such as {EXAMPLE}')
    unknown = sorted(set(line) - set(FIELDS))
    if unknown:
        raise GenerationError(f"{unknown[0]!r} is unknown; use {', '.join(FIELDS)}")
    seed = _whole(line, "seed", seed, least=0)
    permutation = line.get("permutation")
    if permutation is not None and not (
        isinstance(permutation, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in permutation)
    ):
        raise GenerationError(f"permutation={permutation!r}: use a list of whole numbers, one for each new token")
    turns = None if permutation is None else tuple(permutation)
    if "infill" in line:
        if "max_new_tokens" in line:
            raise GenerationError("max_new_tokens: is for a prompt; the holes of an infill say their own lengths")
        return Request(_pieces(line["infill"]), seed, infill=True, permutation=turns)
    if not isinstance(line["prompt"], str):
        raise GenerationError(f"prompt={line['prompt']!r}: use a text")
    count = _whole(line, "max_new_tokens", max_new_tokens, least=1)
    return Request((line["prompt"], count), seed, permutation=turns)


def _pieces(infill: Any) -> tuple[str | int, ...]:
    """Of a text with markers, or of a list of texts and lengths, in which nothing is a marker."""
    if isinstance(infill, str):
        return parse_infill(infill)
    if not isinstance(infill, list) or not all(type(piece) in (str, int) for piece in infill):
        raise GenerationError(f"infill={infill!r}: use a text with <hole:8>, or a list of texts and hole lengths")
    check_pieces(infill, infill)
    return tuple(infill)


def _whole(line: dict[str, Any], name: str, default: int, least: int) -> int:
    value = line.get(name, default)
    if type(value) is not int or not least <= value < 2**63:
        raise GenerationError(f"{name}={value!r}: use a whole number from {least} up")
    return value


@dataclass(frozen=True)
class Answers:
    """The answers' file, with its settings in a file beside it."""

    path: Path
    settings: dict[str, Any]

    @property
    def about(self) -> Path:
        return self.path.with_name(self.path.name + ".settings.json")

    def begin(self) -> int:
        """Answers that are there already, a line that a kill tore not counted. Raises GenerationError."""
        try:
            if not self.path.exists():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self.about, json.dumps(self.settings, indent=2).encode() + b"\n")
                self.path.touch()
                return 0
            self._compare()
            written = self.path.read_bytes()
            whole = written.rfind(b"\n") + 1
            if whole < len(written):
                os.truncate(self.path, whole)
            return written.count(b"\n")
        except OSError as error:
            raise GenerationError(f"--out {self.path}: cannot be written ({error.strerror})") from error

    def _compare(self) -> None:
        try:
            theirs = json.loads(self.about.read_text())
        except (OSError, ValueError) as error:
            raise GenerationError(
                f"--out {self.path}: is there, and {self.about.name} does not say what made it; name another file"
            ) from error
        other = [
            f"{name}={self.settings.get(name)}, there {name}={theirs.get(name)}"
            for name in sorted({*self.settings, *theirs})
            if self.settings.get(name) != theirs.get(name)
        ]
        if other:
            raise GenerationError(
                f"--out {self.path}: was made with other settings ({'; '.join(other)}); name another file, "
                "or ask as before"
            )

    def append(self, answers: list[dict[str, Any]], size: int) -> int:
        """Writes them through to the disk, behind the `size` bytes that are ours; returns how many are then.

        Raises GenerationError where the file has another size, for then another process writes it too.
        """
        try:
            with self.path.open("ab") as file:
                if file.tell() != size:
                    raise GenerationError(f"--out {self.path}: another process writes it too; stop one of the two")
                size += file.write("".join(json.dumps(one) + "\n" for one in answers).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise GenerationError(f"--out {self.path}: cannot be written ({error.strerror})") from error
        return size


def answer_file(
    model: Generator, tokenizer: Tokenizer, prepared: list[Prepared], sampling: Sampling, out: Answers, batch_size: int
) -> Iterator[int]:
    """Writes every answer that is not there yet; yields how many are. Raises GenerationError.

    A batch that a kill cut short is computed again as it was, so that rounding cannot make another text of it.
    """
    done = out.begin()
    size = out.path.stat().st_size
    yield done
    for start, samples in answer_batches(model, tokenizer, prepared, sampling, done, batch_size):
        made = [{"number": start + n, **asdict(sample)} for n, sample in enumerate(samples)]
        size = out.append(made[max(done - start, 0) :], size)
        yield start + len(made)


def answer_batches(
    model: Generator, tokenizer: Tokenizer, prepared: list[Prepared], sampling: Sampling, done: int, batch_size: int
) -> Iterator[tuple[int, list[Sample]]]:
    """(number of the first, samples) of each batch, from the one that holds number `done` on."""
    for start in range(done // batch_size * batch_size, len(prepared), batch_size):
        yield start, answer(model, tokenizer, prepared[start : start + batch_size], sampling)
