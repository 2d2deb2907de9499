"""report.html: one page that opens from disk without a network."""

import html
import json
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, Self

from armd_dist.evaluation.page_charts import bars, new_figure, svg
from armd_dist.run import Run
from data_pipeline.files import write_atomically

NAMES = {"left_to_right": "S = 1, left to right", "strided_2": "S = 2 streams", "strided_4": "S = 4 streams"}
PHASE_COLOURS = {"left_to_right": "#4477aa", "progressive": "#ee8866", "mixture": "#aa3377", "strided": "#228833"}


@dataclass(frozen=True)
class Story:
    """What a finished quickstart left on disk, and the samples: {streams: text}."""

    run: Run
    metrics: list[dict[str, Any]]
    baselines: dict[str, float]
    before: dict[str, Any]
    after: dict[str, Any]
    samples: dict[int, str]

    @classmethod
    def read(cls, run: Run, samples: dict[int, str]) -> Self:
        folder = Path(run.run.dir)
        before = folder / "evaluation" / "before_strided" / "evaluation.json"
        return cls(
            run=run,
            metrics=[json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()],
            baselines=json.loads((folder / "evaluation" / "baselines.json").read_text()),
            before=json.loads(before.read_text())["perplexity"] if before.exists() else {},
            after=json.loads((folder / "evaluation" / "evaluation.json").read_text())["perplexity"],
            samples=samples,
        )

    def rows(self) -> list[tuple[str, str, str]]:
        """(what, perplexity, decoder passes) for the table at the end."""
        rows = [
            ("untrained network", f"{self.baselines['untrained']:.1f}", ""),
            ("unigram distribution", f"{self.baselines['unigram']:.1f}", ""),
        ]
        for title, results in (("before strided fine-tuning", self.before), ("trained", self.after)):
            rows += [
                (f"{title}: {NAMES.get(name, name)}", f"{found['value']:.1f}", str(found["steps"]))
                for name, found in results.items()
            ]
        return rows


def write_report(story: Story, out: Path) -> Path:
    """Writes the page in one rename and returns its path."""
    template = Template(Path(__file__).with_name("report.html").read_text())
    page = template.substitute(
        title=html.escape(Path(story.run.run.dir).name),
        loss=_loss_figure(story),
        perplexity=_perplexity_figure(story),
        rows="\n".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in story.rows()
        ),
        samples="\n".join(
            f"<h3>{streams} stream{'s' if streams > 1 else ''}</h3><pre>{html.escape(text)}</pre>"
            for streams, text in story.samples.items()
        ),
    )
    write_atomically(out, page.encode())
    return out


def _loss_figure(story: Story) -> str:
    """Loss by step, coloured by the curriculum's phase, with rho above."""
    figure, axes = new_figure()
    for phase, colour in PHASE_COLOURS.items():
        points = [(line["step"], line["loss"]) for line in story.metrics if line["phase"] == phase and "loss" in line]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1, label=phase.replace("_", " "))
    starts = {line["rho"]: line["step"] for line in reversed(story.metrics) if line["rho"] > 1}
    for rho, step in starts.items():
        axes.annotate(f"ρ = {rho}", (step, axes.get_ylim()[1]), fontsize=8, color="#666666", va="bottom")
        axes.axvline(step, color="#dddddd", linewidth=0.8, zorder=0)
    axes.set(xlabel="step", ylabel="training loss, nats per token")
    axes.legend(frameon=False)
    return svg(figure)


def _perplexity_figure(story: Story) -> str:
    """Perplexity against the decoder passes that a whole sequence takes."""
    figure, axes = new_figure()
    for label, results, colour in (
        ("before strided fine-tuning", story.before, "#ee8866"),
        ("after it", story.after, "#228833"),
    ):
        if results:
            found = list(results.values())
            values = [one["value"] for one in found]
            steps = [one["steps"] for one in found]
            axes.errorbar(steps, values, yerr=bars(found), color=colour, marker="o", label=label)
    axes.set(xlabel="decoder passes for a sequence (S = 4, 2, 1)", ylabel="held-out perplexity")
    axes.legend(frameon=False)
    return svg(figure)
