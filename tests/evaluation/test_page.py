"""The page of an evaluation: every number of it, nothing of the texts as markup, and no need of a network."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from armd_dist.evaluation.page import write_page

NASTY = "<script>alert('&amp;')</script> $sections ${x} \u2028 </pre>"


def perplexity(value: float, steps: int, **more: Any) -> dict[str, Any]:
    interval = {"value": value, "low": value - 1.5, "high": value + 2.25}
    counts = {"tokens": 51_968, "bytes": 150_123, "documents": 20, "bits_per_byte": value / 100}
    rest: dict[str, Any] = {"heads": None, "parallel": None, "steps": steps, "draws": None, "importance": None}
    rest["price"] = {"value": 1.031, "low": 1.017, "high": 1.049}
    return {**interval, **counts, **rest, **more}


def generated(streams: int, value: float) -> dict[str, Any]:
    judge = {
        "judge": "judges/gpt2",
        "judge_dtype": "bfloat16",
        "judge_context": 1024,
        "tokens": 777,
        "truncated": 2,
        "empty": 19,
    }
    return {
        "streams": streams,
        "samples": 64,
        "new_tokens": 96,
        "prompt_tokens": 16,
        "gen_ppl": {"value": value, "low": value - 3, "high": value + 4, **judge},
        "entropy": 4.25 + streams / 100,
        "distinct_1": 0.41,
        "distinct_2": 0.82,
        "distinct_3": None,
        "repetition_4": 0.031,
        "mauve": None,
        "mauve_reason": "mauve-text is not installed",
        "tokens_per_second": 1000.0 * streams,
        "passes": 100 - streams,
        "examples": [f"text of {streams} & {NASTY}", "another"],
    }


WHOLE: dict[str, Any] = {
    "model": "runs/<mine>",
    "ema": True,
    "dtype": "float32",
    "data": "data/held_out",
    "data_manifest_sha256": "ab" * 32,
    "sequence_length": 128,
    "attention": "across_documents",
    "versions": {"torch": "2.13.0", "armd-dist": "0.1.0"},
    "perplexity": {
        "left_to_right": perplexity(54.41, 128, heads=54.41),
        "strided_2": perplexity(64.12, 65, heads=88.31, parallel=63.77),
        "strided_4": perplexity(70.93, 35, heads=121.07, parallel=67.5),
        "block_4": perplexity(80.06, 32, low=None, high=None),
        "any_order": perplexity(140.37, 128, draws=7, importance=133.21),
    },
    "sets": {
        "wiki <2>": {
            "path": "data/wiki.tokens",
            "detokenizer": "wikitext",
            "documents": 60,
            "perplexity": {"left_to_right": perplexity(412.5, 128)},
        },
        "lambada": {
            "path": "data/lambada.jsonl",
            "detokenizer": "lambada",
            "documents": 5153,
            "perplexity": {"left_to_right": perplexity(4012.5, 128)},
            "accuracy": {"left_to_right": {"value": 0.1234, "low": 0.1111, "high": 0.1357}},
        },
    },
    "generation": {
        "reference": {**generated(8, 33.33), "streams": None, "tokens_per_second": None, "passes": None},
        "strided_1": generated(1, 91.25),
        "strided_4": generated(4, 119.5),
    },
}


class Page(HTMLParser):
    """Tags that are open are closed in turn; what stands in cells, pre and headings is collected."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.found: dict[str, list[str]] = {"td": [], "th": [], "pre": [], "h1": [], "h2": [], "h3": [], "text": []}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in self.found:
            self.found[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in self.found:
            self.found[self.open[-1]][-1] += data


def page_of(evaluation: dict[str, Any], folder: Path) -> tuple[Page, str]:
    written = write_page(folder, evaluation)
    assert written == folder / "report.html"
    text = written.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    return page, text


def numbers(content: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number below a part of evaluation.json."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from numbers(value, f"{path}.{key}")
    if isinstance(content, int | float) and not isinstance(content, bool):
        yield path, content


def as_shown(path: str, value: float) -> set[str]:
    """Ways to write a number without losing what distinguishes it here."""
    return {f"{value:,.{digits}f}" for digits in ((0,) if value == int(value) else (2, 3, 4))} | {f"{value:,.2f}"}


def test_every_number_is_in_a_table(tmp_path: Path) -> None:
    page, _ = page_of(WHOLE, tmp_path)
    cells = " ".join(page.found["td"]).split()
    # Streams stand in the rows' names; of the judge's context nobody asks once it is known what was cut.
    missing = [
        (path, value)
        for path, value in numbers(WHOLE)
        if not as_shown(path, value) & set(cells) and not path.endswith(("judge_context", "streams"))
    ]
    assert missing == []


def test_setting_and_headings(tmp_path: Path) -> None:
    page, _ = page_of(WHOLE, tmp_path)
    cells = page.found["td"]
    assert page.found["h1"] == ["Evaluation of runs/<mine>"]
    assert page.found["h2"] == ["Setting", "Perplexity", "Generated text", "Other texts", "Samples"]
    assert page.found["h3"] == ["wiki <2>", "lambada", "reference", "strided_1", "strided_4"]
    for shown in ("ab" * 32, "yes", "float32", "torch 2.13.0, armd-dist 0.1.0", "judges/gpt2 in bfloat16"):
        assert shown in cells
    assert "mauve-text is not installed" in cells
    assert "any_order, at most" in cells
    assert "block_4" in cells


def test_texts_are_no_markup(tmp_path: Path) -> None:
    page, _ = page_of(WHOLE, tmp_path)
    assert "script" not in page.tags
    assert page.found["pre"][2:4] == [f"text of 1 & {NASTY}", "another"]


def test_nothing_comes_from_a_network(tmp_path: Path) -> None:
    page, text = page_of(WHOLE, tmp_path)
    names = {name for name, _ in page.attributes}
    assert "src" not in names
    links = [value for name, value in page.attributes if name in ("href", "xlink:href") and value is not None]
    assert all(link.startswith("#") for link in links)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_charts_are_of_these_points(tmp_path: Path) -> None:
    page, text = page_of(WHOLE, tmp_path)
    assert page.tags.count("svg") == 3
    assert text.count("tokens per second") == 2, "perplexity too, since the speed of these streams is known"
    assert text.count(">S = 4</text>") == 3
    assert "held-out text</text>" in text
    for label in ("88.31", "63.77", "121.07", "67.50"):
        assert f">{label}</text>" in text


def test_speed_is_in_passes_where_nothing_was_generated(tmp_path: Path) -> None:
    page, text = page_of({key: value for key, value in WHOLE.items() if key != "generation"}, tmp_path)
    assert page.tags.count("svg") == 2
    assert "forward passes for a sequence</text>" in text
    assert page.found["h2"] == ["Setting", "Perplexity", "Other texts"]


@pytest.mark.parametrize("part", [*WHOLE, None])
def test_every_part_may_be_missing(part: str | None, tmp_path: Path) -> None:
    left = {} if part is None else {key: value for key, value in WHOLE.items() if key != part}
    page, _ = page_of(left, tmp_path)
    assert "Setting" in page.found["h2"] or not left
    assert "None" not in " ".join(page.found["td"])


def test_without_a_judge_or_intervals(tmp_path: Path) -> None:
    bare = {**generated(1, 1.0), "gen_ppl": None}
    one = {"perplexity": {"masked_diffusion": perplexity(99.5, 128, draws=8)}, "generation": {"strided_1": bare}}
    page, _ = page_of(one, tmp_path)
    assert page.tags.count("svg") == 0
    assert "gen-PPL" not in page.found["th"]
    assert "99.50" in page.found["td"]
    judged = {**generated(1, 5.0)["gen_ppl"], "low": None, "high": None}
    alone = {"generation": {"strided_1": {**bare, "gen_ppl": judged}}}
    page, _ = page_of(alone, tmp_path)
    assert page.tags.count("svg") == 1
