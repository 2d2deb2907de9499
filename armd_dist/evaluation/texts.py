"""Texts to score that are no dataset of ours: the corpora of zero-shot tables, and any file of texts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from armd_dist.errors import EvaluationError, Problem
from armd_dist.evaluation.detokenizers import DETOKENIZERS, detokenize
from armd_dist.evaluation.text_formats import FORMATS, Record
from data_pipeline.files import sha256_of


@dataclass(frozen=True)
class Document:
    """A text that is scored, behind a context that is not."""

    text: str
    context: str = ""


@dataclass(frozen=True)
class TextSet:
    """A named set of documents, and the file that they come from. detokenizer: the one that was used."""

    name: str
    documents: list[Document]
    detokenizer: str
    path: str
    sha256: str


@dataclass(frozen=True)
class _Entry:
    """What a YAML says of a set."""

    path: str
    format: str
    detokenizer: str | None = None
    limit: int | None = None


def load_texts(name: str, path: Path, limit: int | None = None, detokenizer: str | None = None) -> list[Document]:
    """The documents of a file of format `name`, one of `FORMATS`; the first `limit`, None for all.

    detokenizer: None for the one that the format's corpus is scored with. Raises EvaluationError with the file and, of
    what stands in it, the line or number.
    """
    documents = list(islice(_documents(name, path, detokenizer or FORMATS[name].detokenizer), limit))
    if not documents:
        raise EvaluationError(f"{path}: holds no text; give a file of format {name}")
    return documents


def _documents(name: str, path: Path, detokenizer: str) -> Iterator[Document]:
    try:
        for record in FORMATS[name].read(path):
            try:
                yield _document(name, record, detokenizer)
            except EvaluationError as error:
                raise EvaluationError(f"{record.where}: {error}") from error
    except EvaluationError as error:
        raise EvaluationError(f"{path}: {error}") from error
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{path}: is not UTF-8 ({error}); convert it") from error
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read ({error.strerror}); give a file of texts") from error


def _document(name: str, record: Record, detokenizer: str) -> Document:
    if not record.text.strip():
        raise EvaluationError("is empty; remove it, as nothing of it can be scored")
    if record.context and detokenizer != "none":
        raise EvaluationError(f"detokenizer={detokenizer} is for whole texts, and this one has a context; use none")
    text = detokenize(detokenizer, record.text)
    if name != "lambada":
        return Document(text, record.context)
    context, blank, word = text.rpartition(" ")
    if not blank:
        raise EvaluationError("has a single word; LAMBADA asks for the last one behind the others")
    return Document(blank + word, context)


def load_sets(file: Path) -> list[TextSet]:
    """The sets of a YAML, {name: {path, format, detokenizer, limit}}; the last two may be left out.

    Raises EvaluationError with every problem of every set.
    """
    sets, problems = [], []
    for name, entry in _read_yaml(file).items():
        found = _entry_problems(f"{file}: {name}", entry)
        if not found:
            try:
                sets.append(_load(name, _Entry(**entry)))
            except EvaluationError as error:
                found = [f"{file}: {name}: {error}"]
        problems += found
    if problems:
        raise EvaluationError("\n".join(map(str, problems)))
    return sets


def load_named(given: Sequence[str]) -> list[TextSet]:
    """The sets that `--texts` names: a YAML of sets, or FORMAT=FILE. Raises EvaluationError with every problem."""
    sets: list[TextSet] = []
    problems: list[str] = []
    for text in given:
        try:
            sets += load_sets(Path(text)) if text.endswith((".yaml", ".yml")) else [_load_one(text)]
        except EvaluationError as error:
            problems.append(f"--texts {error}")
    names = [one.name for one in sets]
    problems += [
        f"--texts {name}: is there twice; give each set once" for name in {n for n in names if names.count(n) > 1}
    ]
    if problems:
        raise EvaluationError("\n".join(problems))
    return sets


def _load_one(text: str) -> TextSet:
    kind, equals, path = text.partition("=")
    if not equals or kind not in FORMATS:
        raise EvaluationError(f"{text}: is neither a YAML of sets nor FORMAT=FILE with one of {', '.join(FORMATS)}")
    return _load(kind, _Entry(path, kind))


def _load(name: str, entry: _Entry) -> TextSet:
    path = Path(entry.path)
    detokenizer = entry.detokenizer or FORMATS[entry.format].detokenizer
    documents = load_texts(entry.format, path, entry.limit, detokenizer)
    return TextSet(name, documents, detokenizer, entry.path, sha256_of(path))


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise EvaluationError(f"{file}: cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(found, dict) or not found:
        raise EvaluationError(f"{file}: names no sets; see configs/evaluation/zero_shot.yaml")
    return {str(name): entry for name, entry in found.items()}


def _entry_problems(where: str, entry: Any) -> list[Problem]:
    """What is wrong with what the YAML says of one set; its file has not been opened yet."""
    if not isinstance(entry, dict):
        return [Problem(where, entry, "is no mapping", "write {path: FILE, format: NAME}")]
    known = [field.name for field in fields(_Entry)]
    problems = [
        Problem(f"{where}.{key}", value, "is not a setting", f"use {', '.join(known)}")
        for key, value in entry.items()
        if key not in known
    ]
    path, kind = entry.get("path"), entry.get("format")
    if not isinstance(path, str):
        problems.append(Problem(f"{where}.path", path, "names no file", "give the path of the set's file"))
    elif not Path(path).is_file():
        problems.append(Problem(f"{where}.path", path, "is no file", "give the path of the set, or remove the set"))
    if not isinstance(kind, str) or kind not in FORMATS:
        problems.append(Problem(f"{where}.format", kind, "is unknown", f"use one of {', '.join(FORMATS)}"))
    if entry.get("detokenizer") not in (None, *DETOKENIZERS):
        remedy = f"use one of {', '.join(DETOKENIZERS)}"
        problems.append(Problem(f"{where}.detokenizer", entry["detokenizer"], "is unknown", remedy))
    limit = entry.get("limit")
    if limit is not None and (type(limit) is not int or limit < 1):
        problems.append(Problem(f"{where}.limit", limit, "is no number of documents", "use 1 or more, or leave it out"))
    return problems
