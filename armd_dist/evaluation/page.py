"""report.html of an evaluation: one page from the content of evaluation.json, which opens and prints without a network.

Every part of that content is optional; the page shows what is there.
"""

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from armd_dist.evaluation.page_charts import Points, phases_chart, speed_chart, streams_of
from data_pipeline.files import write_atomically

Row = Mapping[str, Any]
PARTS = ("perplexity", "sets", "generation")
SPEED = "tokens per second"
STRIDED = (
    "With S streams the heads come one by one, then S tokens at a time. The perplexity is that of this very sampler, "
    "exact and no bound. Bars: 95 % intervals by bootstrap."
)
PRICED = (
    "The price is the perplexity over that of the first order. Its interval draws documents once for both, so it is "
    "narrower than theirs."
)
JUDGED = (
    "exp of the judge's mean nats per token of its own; prompts are read and not counted. A text that repeats itself "
    "pleases a judge: entropy (mean over samples of the entropy of a sample's own token frequencies, in nats), "
    "distinct n-grams and the share of repeated 4-grams tell. The line is held-out text of the same length."
)

# Columns of the tables; what is counted stands in one of its own, so that all fits on a printed page.
PERPLEXITIES = {
    "value": "perplexity",
    "low": "95 % interval",
    "price.value": "price",
    "price.low": "its interval",
    "heads": "heads",
    "parallel": "parallel",
    "steps": "passes",
    "bits_per_byte": "bits per byte",
    "importance": "importance weighted",
}
SCORED = {
    "documents": "documents",
    "tokens": "tokens",
    "bytes": "bytes",
    "draws": "draws",
    "draw_error": "their error in nats per token",
}
GENERATED = {
    "gen_ppl.value": "gen-PPL",
    "gen_ppl.low": "95 % interval",
    "entropy": "entropy",
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
    "distinct_3": "distinct-3",
    "repetition_4": "repeated",
    "mauve": "MAUVE",
    "tokens_per_second": "tokens / s",
    "passes": "passes",
}
WRITTEN = {
    "samples": "texts",
    "prompt_tokens": "tokens of the prompt",
    "new_tokens": "new tokens",
    "gen_ppl.tokens": "tokens of the judge",
    "gen_ppl.truncated": "texts it cut",
    "gen_ppl.empty": "empty texts",
}
VARIETY = ("entropy", "distinct_1", "distinct_2", "distinct_3", "repetition_4", "mauve")
THREE_DIGITS = ("price.value", "price.low", "bits_per_byte", "draw_error", *VARIETY)


def write_page(folder: Path, evaluation: Row) -> Path:
    """Writes folder/report.html in one rename and returns its path."""
    title = f"Evaluation of {evaluation.get('model', 'a model')}"
    makers: tuple[Callable[[Row], str], ...] = (_setting, _orders, _generation, _sets, _samples)
    template = Template(Path(__file__).with_name("page.html").read_text())
    sections = "\n".join(maker(evaluation) for maker in makers)
    write_atomically(folder / "report.html", template.substitute(title=html.escape(title), sections=sections).encode())
    return folder / "report.html"


def _setting(evaluation: Row) -> str:
    rows = [(name.replace("_", " "), value) for name, value in evaluation.items() if name not in PARTS]
    return _section("Setting", _about(rows))


def _orders(evaluation: Row) -> str:
    found: Row = evaluation.get("perplexity") or {}
    if not found:
        return ""
    rows = {_named(name, one): _flat(one) for name, one in found.items()}
    priced = f"<p>{PRICED}</p>" if any(one.get("price") for one in found.values()) else ""
    tables = _table("order", PERPLEXITIES, rows), priced, _table("order", SCORED, rows)
    return _section("Perplexity", _order_charts(evaluation, found), *tables)


def _named(name: str, found: Row) -> str:
    """What has been drawn at random is a bound."""
    return f"{name}, at most" if found.get("draws") else name


def _order_charts(evaluation: Row, found: Row) -> str:
    generation: Row = evaluation.get("generation") or {}
    speeds = {one["streams"]: one["tokens_per_second"] for one in generation.values() if one.get("streams")}
    strided = [(streams, one) for name, one in found.items() if (streams := streams_of(name)) is not None]
    timed = [point for point in strided if point[0] in speeds]
    if len(timed) > 1:
        points: Points = [(streams, speeds[streams], one) for streams, one in timed]
        axis = SPEED
    else:
        points = [(streams, one["steps"], one) for streams, one in strided]
        axis = "forward passes for a sequence"
    if len(points) < 2:
        return ""
    chart = _figure(speed_chart(points, axis, "perplexity"), STRIDED)
    caption = "What the heads and the parallel phase contribute; one stream has no parallel phase."
    return chart + _figure(phases_chart([(streams, 0, one) for streams, one in strided]), caption)


def _generation(evaluation: Row) -> str:
    found: Row = evaluation.get("generation") or {}
    if not found:
        return ""
    judges = {one["gen_ppl"]["judge"]: one["gen_ppl"] for one in found.values() if one.get("gen_ppl")}
    about = [("judge", f"{path} in {one['judge_dtype']}") for path, one in judges.items()]
    reasons = {one["mauve_reason"] for one in found.values() if one.get("mauve_reason")}
    about += [("no MAUVE", reason) for reason in sorted(reasons)]
    rows = {name: _flat(one) for name, one in found.items()}
    tables = _table("text", GENERATED, rows), _table("text", WRITTEN, rows)
    return _section("Generated text", _generation_chart(found), *tables, _about(about) if about else "")


def _generation_chart(found: Row) -> str:
    judged = [one for one in found.values() if one.get("gen_ppl") and one.get("streams")]
    points: Points = [(one["streams"], one["tokens_per_second"], one["gen_ppl"]) for one in judged]
    reference = (found.get("reference") or {}).get("gen_ppl")
    return _figure(speed_chart(points, SPEED, "generative perplexity", reference), JUDGED) if points else ""


def _flat(one: Row) -> Row:
    parts = ("gen_ppl", "price")
    return {**one, **{f"{part}.{name}": value for part in parts for name, value in (one.get(part) or {}).items()}}


def _sets(evaluation: Row) -> str:
    sets: Row = evaluation.get("sets") or {}
    if not sets:
        return ""
    parts = []
    for name, one in sets.items():
        known = [(key, one[key]) for key in ("path", "detokenizer", "documents") if key in one]
        parts += [f"<h3>{_text(name)}</h3>", _about(known)]
        rows = {_named(order, found): _flat(found) for order, found in (one.get("perplexity") or {}).items()}
        parts += [_table("order", PERPLEXITIES, rows), _table("order", SCORED, rows)]
        if one.get("accuracy"):
            columns = {"value": "accuracy of the last word", "low": "95 % interval"}
            parts.append(_table("order", columns, one["accuracy"], digits=4))
    return _section("Other texts", *parts)


def _samples(evaluation: Row) -> str:
    found: Row = evaluation.get("generation") or {}
    columns = [
        f"<div><h3>{_text(name)}</h3>" + "".join(f"<pre>{_text(text)}</pre>" for text in one["examples"]) + "</div>"
        for name, one in found.items()
        if one.get("examples")
    ]
    return _section("Samples", f'<div class="samples">{"".join(columns)}</div>') if columns else ""


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{_text(title)}</h2>\n" + "\n".join(parts) + "</section>"


def _figure(chart: str, caption: str) -> str:
    return f"<figure>{chart}<figcaption>{_text(caption)}</figcaption></figure>\n"


def _about(rows: Iterable[tuple[str, Any]]) -> str:
    lines = "".join(f"<tr><th>{_text(name)}</th><td>{_text(_plain(value))}</td></tr>" for name, value in rows)
    return f'<table class="about">{lines}</table>'


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(one)}" for name, one in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _table(head: str, columns: Mapping[str, str], rows: Mapping[str, Row], digits: int = 2) -> str:
    """A line for each row; columns in which no row says anything are left out."""
    shown = {key: title for key, title in columns.items() if any(row.get(key) is not None for row in rows.values())}
    titles = "".join(f"<th>{_text(title)}</th>" for title in (head, *shown.values()))
    lines = []
    for name, row in rows.items():
        cells = "".join(f"<td>{_cell(row, key, digits)}</td>" for key in shown)
        lines.append(f"<tr><td>{_text(name)}</td>{cells}</tr>")
    return f'<div class="wide"><table><tr>{titles}</tr>\n{"".join(lines)}</table></div>' if shown else ""


def _cell(row: Row, key: str, digits: int) -> str:
    """A number; of an interval both ends."""
    value = row.get(key)
    if value is None:
        return ""
    if key.endswith("low"):
        digits = 3 if key in THREE_DIGITS else digits
        return f"{value:,.{digits}f} to {row[key.replace('low', 'high')]:,.{digits}f}"
    if isinstance(value, int) or key == "tokens_per_second":
        return f"{value:,.0f}"
    return f"{value:,.{3 if key in THREE_DIGITS else digits}f}"


def _text(value: object) -> str:
    return html.escape(str(value))
