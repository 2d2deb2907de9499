"""How files hold texts: lines, articles, paragraphs, objects, tables. Each reader gives numbered records."""

import csv
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from armd_dist.errors import EvaluationError

TITLE = re.compile(r"^ ?= (?!= ).*(?<! =) = ?$")  # of an article; " = = of a section = = "
CSV_CLASSES = "1234"


@dataclass(frozen=True)
class Record:
    """A text of a file, behind a context that is not scored; where: its line or number, for messages."""

    where: str
    text: str
    context: str = ""


@dataclass(frozen=True)
class Format:
    """read: the records of a file; detokenizer: the one that its corpus is scored with, where nothing else is asked."""

    read: Callable[[Path], Iterator[Record]]
    detokenizer: str = "none"


def read_whole(path: Path) -> Iterator[Record]:
    """One text a file."""
    yield Record("text 1", path.read_text(encoding="utf-8"))


def read_paragraphs(path: Path) -> Iterator[Record]:
    """Texts with blank lines between them."""
    parts = (part for part in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")) if part.strip())
    for number, part in enumerate(parts, start=1):
        yield Record(f"paragraph {number}", part.strip("\n"))


def read_lines(path: Path) -> Iterator[Record]:
    """A text in each line that is not blank."""
    with path.open(encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield Record(f"line {number}", line.rstrip("\n"))


def read_articles(path: Path) -> Iterator[Record]:
    """WikiText's: an article begins with a title, ` = Title = `, behind a blank line."""
    article: list[str] = []
    number, before = 1, ""
    for line in path.read_text(encoding="utf-8").split("\n"):
        if TITLE.match(line) and not before.strip() and "".join(article).strip():
            yield Record(f"article {number}", _joined(article))
            article, number = [], number + 1
        article.append(line)
        before = line
    if "".join(article).strip():
        yield Record(f"article {number}", _joined(article))


def _joined(lines: list[str]) -> str:
    # The blank at a line's end stays: detokenizers look for it behind the full stop.
    return re.sub(r"^\s+|\n\s*\Z", "", "\n".join(lines))


def read_objects(path: Path) -> Iterator[Record]:
    """JSON lines: `text`, with `context` where only what follows it is scored; or `prompt` and `completion`."""
    for where, line in _objects(path):
        if "prompt" in line or "completion" in line:
            yield Record(where, _text(where, line, "completion"), _text(where, line, "prompt"))
        else:
            yield Record(where, _text(where, line, "text"), _text(where, line, "context") if "context" in line else "")


def read_passages(path: Path) -> Iterator[Record]:
    """LAMBADA's passages, JSON lines: `text`, or `context` and `continuation`, its last word."""
    for where, line in _objects(path):
        if "text" in line:
            yield Record(where, _text(where, line, "text"))
        else:
            yield Record(where, f"{_text(where, line, 'context')} {_text(where, line, 'continuation')}")


def read_sentences(path: Path) -> Iterator[Record]:
    """One text a line, without blanks around it, or `text` of JSON lines where the file's name says so."""
    for record in read_objects(path) if path.suffix in (".jsonl", ".json") else read_lines(path):
        yield Record(record.where, record.text.strip())


def read_news(path: Path) -> Iterator[Record]:
    """AG News: JSON lines, or a table of class, title and description, with a head or without; title and description
    are one text, as in the usual copy."""
    if path.suffix in (".jsonl", ".json"):
        yield from read_objects(path)
        return
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            if number == 1 and row and row[0] not in CSV_CLASSES:
                continue
            if len(row) != 3:
                raise EvaluationError(f"row {number}: has {len(row)} columns; use class, title, description")
            yield Record(f"row {number}", f"{row[1]} {row[2]}".strip())


def read_papers(path: Path) -> Iterator[Record]:
    """Scientific papers, JSON lines: `article`, or `article_text`, a list of its sentences."""
    for where, line in _objects(path):
        if isinstance(line.get("article_text"), list):
            yield Record(where, "\n".join(map(str, line["article_text"])))
        else:
            yield Record(where, _text(where, line, "article_text" if "article_text" in line else "article"))


def _objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                found = json.loads(line)
            except ValueError as error:
                raise EvaluationError(f"line {number}: is not JSON ({error})") from error
            if not isinstance(found, dict):
                raise EvaluationError(f'line {number}: is no object; write {{"text": "..."}}')
            yield f"line {number}", found


def _text(where: str, line: dict[str, Any], field: str) -> str:
    if not isinstance(line.get(field), str):
        found = f"has no text {field!r}, but {', '.join(sorted(line)) or 'nothing'}"
        raise EvaluationError(f'{where}: {found}; write {{"{field}": "..."}}')
    return line[field]


FORMATS = {
    "wikitext2": Format(read_articles, "wikitext"),
    "wikitext103": Format(read_articles, "wikitext"),
    "ptb": Format(read_sentences, "ptb"),
    "lm1b": Format(read_sentences, "lm1b"),
    "lambada": Format(read_passages, "lambada"),
    "agnews": Format(read_news),
    "pubmed": Format(read_papers, "scientific_papers"),
    "arxiv": Format(read_papers, "scientific_papers"),
    "jsonl": Format(read_objects),
    "lines": Format(read_lines),
    "paragraphs": Format(read_paragraphs),
    "plain": Format(read_whole),
}
