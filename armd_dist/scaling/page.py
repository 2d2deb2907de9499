"""report.html of a study: one page with its pictures inside; pictures and the data behind them lie in figures/."""

import base64
import html
from collections.abc import Callable, Sequence
from pathlib import Path
from string import Template
from typing import Any

from armd_dist.scaling import figures
from armd_dist.scaling.figures import Rows, label_of
from armd_dist.scaling.fitting import Point
from armd_dist.scaling.law import NAMES
from armd_dist.scaling.study import Study
from armd_dist.scaling.tables import slice_in_words, spoken
from data_pipeline.files import write_atomically

LOSS = (
    "Points are runs, larger ones of larger networks. Lines: the loss at the best split of the compute between "
    "parameters and tokens, by the law; bands: its 95 % interval by bootstrap. “Bound”: a NELBO, below which "
    "the loss itself may lie."
)
ISOFLOP = "Runs of equal FLOPs; the parabola's bottom, a star where it lies among the sizes, is the best size."
EXPONENTS = "L = E + A / N^a + B / D^b. The last row follows from a, b and the cost of a token by size."
STRIDED = "Exact perplexity of the sampler of S streams, each size at its most compute; 95 % intervals over documents."
SPEED = "Median of the second half of each run, then over the runs of a size; FLOPs as the plan counts them."
BOUND = "Of a bound: AR needs at least so much."


def write_page(study: Study, content: dict[str, Any], points: Sequence[Point]) -> Path:
    """Writes report.html and figures/NAME.png and .csv in the study's folder; returns the page's path."""
    folder = Path(study.dir) / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    drawn: list[tuple[str, str, Rows, Callable[[Any, Rows], None], str]] = [
        ("Loss against compute", "loss", figures.loss_rows(content), figures.draw_loss, LOSS),
        ("isoFLOP slices", "isoflop", figures.isoflop_rows(content), figures.draw_isoflop, ISOFLOP),
        ("Exponents", "exponents", figures.exponent_rows(content), figures.draw_exponents, EXPONENTS),
        ("Perplexity against streams", "streams", figures.strided_rows(points), figures.draw_strided, STRIDED),
        ("Speed", "speed", figures.speed_rows(study, points), figures.draw_speed, SPEED),
    ]
    sections = [_setting(study, content), _laws(content)]
    for title, name, rows, draw, caption in drawn:
        if rows:
            picture = figures.write_figure(folder, name, rows, draw)
            sections.append(_section(title, _figure(picture, name, caption)))
    sections += [_slices(content), _ratios(content), _predictions(content), _runs(content), _left_out(content)]
    template = Template(Path(__file__).with_name("page.html").read_text())
    page = template.substitute(title=html.escape(f"Scaling study {study.dir}"), sections="\n".join(sections))
    write_atomically(Path(study.dir) / "report.html", page.encode())
    return Path(study.dir) / "report.html"


def _setting(study: Study, content: dict[str, Any]) -> str:
    count = sum(len(one["points"]) for one in content["series"].values())
    rows = [
        ("runs fitted", f"{count:,}"),
        ("left out", str(len(content["left_out"]))),
        ("base", study.base),
        ("changes to it", ", ".join(f"{path}={value}" for path, value in study.settings.items()) or "none"),
        ("layers", ", ".join(map(str, study.depths))),
        (study.budgets.kind.replace("_", " "), ", ".join(f"{value:g}" for value in study.budgets.values)),
        ("seeds", ", ".join(map(str, study.seeds))),
        ("Huber's delta, bootstrap draws", f"{study.fit.huber_delta:g}, {study.fit.bootstrap:,}"),
    ]
    return _section("Setting", _table((), rows))


def _laws(content: dict[str, Any]) -> str:
    rows = []
    for name, one in content["series"].items():
        numbers = [spoken(one["law"][each]) for each in NAMES]
        fit = f"{one['cost']['factor']:.3g} N^{one['cost']['power']:.3f}, within {one['cost']['error']:.1%}"
        rows.append((label_of(name, one["bound"]), *numbers, spoken(one["growth"]), fit))
    heads = ("series", *NAMES, "best N grows as C^", "FLOPs of a token")
    return _section("Laws: L(N, D) = E + A / N^a + B / D^b, nats a token", _table(heads, rows))


def _slices(content: dict[str, Any]) -> str:
    rows = [
        (label_of(name, one["bound"]), f"{each['flops']:.3g}", slice_in_words(each))
        for name, one in content["series"].items()
        for each in one["isoflop"]
    ]
    return _section("Bottoms of the slices", _table(("series", "FLOPs", ""), rows)) if rows else ""


def _ratios(content: dict[str, Any]) -> str:
    """Compute that AR needs for the same loss, over the series' own."""
    rows = [
        (name, f"{each['flops']:.3g}", spoken(each), BOUND if one["bound"] else "")
        for name, one in content["series"].items()
        for each in one["ar_ratio"]
    ]
    heads = ("series", "its FLOPs", "AR's FLOPs over them", "")
    return _section("AR-equivalent compute", _table(heads, rows)) if rows else ""


def _predictions(content: dict[str, Any]) -> str:
    rows = []
    for name, one in content["series"].items():
        for each in one["predictions"]:
            said = f"{each['predicted']:.4f} ({each['low']:.4f} to {each['high']:.4f})"
            came = ("not there yet", "") if each["loss"] is None else (f"{each['loss']:.4f}", f"{each['error']:+.2%}")
            rows.append((label_of(name, one["bound"]), each["run"], said, *came))
    heads = ("series", "run", "predicted loss", "came to", "error")
    return _section("Held-out runs", _table(heads, rows)) if rows else ""


def _runs(content: dict[str, Any]) -> str:
    rows = []
    for name, one in content["series"].items():
        for each in one["points"]:
            sizes = f"{each['parameters']:,}", f"{each['tokens']:,}", f"{each['flops']:.3g}"
            rows.append(
                (each["run"], label_of(name, one["bound"]), *sizes, f"{each['loss']:.4f}", f"{each['law']:.4f}")
            )
    heads = ("run", "series", "parameters", "tokens", "FLOPs", "loss", "by the law")
    return _section("Runs", _table(heads, rows))


def _left_out(content: dict[str, Any]) -> str:
    rows = [(one["run"], one["reason"]) for one in content["left_out"]]
    rows += [(f"all of {name}", f"not fitted: {reason}") for name, reason in content["refused"].items()]
    return _section("Left out", _table(("run", "reason"), rows)) if rows else ""


def _section(title: str, body: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>\n{body}</section>"


def _figure(picture: bytes, name: str, caption: str) -> str:
    source = base64.b64encode(picture).decode()
    link = f'<a href="figures/{name}.csv">the data</a>'
    image = f'<img alt="{html.escape(name)}" src="data:image/png;base64,{source}">'
    return f"<figure>{image}<figcaption>{html.escape(caption)} {link}</figcaption></figure>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "<tr>" + "".join(f"<th>{html.escape(each)}</th>" for each in heads) + "</tr>\n" if heads else ""
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table>{head}{lines}</table></div>'
