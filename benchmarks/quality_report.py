"""The tables, claims and figure of benchmarks/quality.py, from its results alone."""

from pathlib import Path
from statistics import mean, stdev
from typing import Any

from claims import claim_line, claims, seed_values
from experiment import write_json
from models import BOUNDS, FLOOR, HEADLINE, MODELS, TITLES, Setting
from rich.markdown import Markdown
from workers import console

from data_pipeline.files import write_atomically

KINDS = {False: "exact", True: "bound"}
EQUAL_STEPS, EQUAL_FLOPS = "#4477aa", "#ee8866"
FIGURE_NAMES = {"left_to_right": "PPL_1", "strided_2": "PPL_2", "strided_4": "PPL_4", "any_order": "any-order bound"}

Content = dict[str, Any]


def write_report(out: Path, content: Content) -> None:
    """Writes results.json, results.md and results.svg into `out`, and prints the tables."""
    content = {**content, "claims": claims(content)}
    write_json(out / "results.json", content)
    text = markdown(content)
    write_atomically(out / "results.md", text.encode())
    draw(content, out / "results.svg")
    console.print(Markdown(text))
    console.print(f"written: {out / 'results.md'}, results.json, results.svg")


def markdown(content: Content) -> str:
    """The whole report."""
    parts = ["# Quality at equal parameters", settings_text(content["setting"])]
    parts += [unigram_text(content["unigram"])]
    parts += ["## Learning rates", RATES_TEXT, rates_table(content), edge_text(content)]
    parts += ["## Equal tokens", COUNTS_TEXT, models_table(content, content["equal_steps"])]
    parts += ["## Equal training FLOPs", EQUAL_FLOPS_TEXT, models_table(content, content["equal_flops"])]
    parts += ["## Like for like: bounds over random orders", bounds_table(content)]
    parts += ["## ARMD under strided orders", strided_text(content), strided_table(content)]
    if any(len(names) > 1 for names in content["seeds"].values()):
        parts += ["## The two closest models, several seeds", seeds_table(content)]
    parts += ["## Claims", *(claim_line(claim) for claim in content["claims"])]
    return "\n\n".join(part for part in parts if part) + "\n"


RATES_TEXT = (
    "Each model is trained in full at every rate; the run with the lowest mean training loss over its last tenth of "
    "steps, in nats a token, stands for the model. Its samples are fresh, and no text that is reported on has a part "
    f"in the choice. Every rate decays to {FLOOR:.0%} of its peak."
)
COUNTS_TEXT = (
    "FLOPs count attention as full squares of rows and keys for every model. This favours bidirectional networks: "
    "causal kernels really do about half of that part."
)
EQUAL_FLOPS_TEXT = (
    "The budget is what AR's training costs. A model that costs more a token takes fewer steps, its schedule scaled; "
    "one within 3 % of AR keeps its first run."
)


def describe(setting: Setting, content: Content) -> dict[str, str]:
    """Lines of the setting that need the models."""
    model = setting.run(()).model
    lines = {"learning_rate": ", ".join(f"{TITLES[name]} {rate:g}" for name, rate in content["rates"].items())}
    if model.query_context == "neighbours":
        idle = model.hidden_size * (model.hidden_size + model.max_sequence_length + 1)
        share = idle / content["runs"][content["equal_steps"]["ar"]]["parameters"]
        lines["parameters_of_AR"] = (
            f"{share:.1%} of them are the query context's right-neighbour map and its distances, which left to right "
            "add a constant only"
        )
    return lines


def rates_table(content: Content) -> str:
    """The training loss of every trial; the chosen one is bold."""
    tried, chosen = content["tried"], {name: f"{rate:g}" for name, rate in content["rates"].items()}
    heads = list(next(iter(tried.values())))
    rows = [
        [
            TITLES[name],
            *(f"**{losses[head]:.3f}**" if head == chosen[name] else f"{losses[head]:.3f}" for head in heads),
        ]
        for name, losses in tried.items()
    ]
    return table(["model", *heads], rows)


def edge_text(content: Content) -> str:
    """Which models would perhaps do better still outside the grid."""
    if all(len(losses) == 1 for losses in content["tried"].values()):
        return "One rate was given: nothing was searched."
    lines = []
    for name, losses in content["tried"].items():
        chosen, rates = f"{content['rates'][name]:g}", sorted(losses, key=float)
        for edge, beyond in ((0, "lower"), (-1, "higher")):
            if rates[edge] == chosen:
                lines.append(
                    f"- {TITLES[name]}: {chosen} is the edge of the grid; a {beyond} one might do better still."
                )
    return "\n".join(lines)


def settings_text(setting: Content) -> str:
    """One line each."""
    return "\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in setting.items())


def unigram_text(perplexity: dict[str, float]) -> str:
    """unigram: {held_out, zero_shot}."""
    held_out, zero_shot = perplexity["held_out"], perplexity["zero_shot"]
    return (
        "Drawing tokens by their training frequencies alone has a held-out perplexity of "
        f"{held_out:.0f} ({zero_shot:.0f} zero-shot)."
    )


def models_table(content: Content, names: dict[str, str]) -> str:
    """names: {model: the run that stands for it}."""
    runs, speed = content["runs"], content["speed"]["tokens_per_second"]
    rows, ar = [], runs[content["equal_steps"]["ar"]]
    for model, name in names.items():
        run, figure = runs[name], HEADLINE[model]
        rows.append(
            [
                TITLES[model],
                f"{run['parameters']:,}",
                f"{run['steps']:,}",
                f"{run['tokens']:,}",
                f"{run['training_flops_per_token'] / ar['training_flops_per_token']:.2f}",
                f"{speed[model] / speed['ar']:.2f}",
                KINDS[figure in BOUNDS],
                interval(run["held_out"][figure]),
                interval(run["zero_shot"][figure]),
            ]
        )
    heads = ["model", "parameters", "steps", "tokens", "FLOPs a token / AR's", "tokens/s / AR's", "kind"]
    return table([*heads, "held-out perplexity", "zero-shot"], rows)


def bounds_table(content: Content) -> str:
    """The same kind of number for all models that have one; with draws and the tighter bound by importance weights."""
    rows = []
    for model in ("armd", "any_order", "mdlm", "bd3lm"):
        figure = HEADLINE[model] if HEADLINE[model] in BOUNDS else "any_order"
        found = content["runs"][content["equal_steps"][model]]["held_out"][figure]
        tighter = found.get("importance")
        rows.append(
            [TITLES[model], figure.replace("_", " "), interval(found), str(found["draws"]), number(tighter)],
        )
    return table(["model", "orders", "held-out bound", "draws", "by importance weights"], rows)


def strided_text(content: Content) -> str:
    """What the fine-tuning added."""
    after = content["runs"][content["strided"]]
    return (
        f"Fine-tuning on strided orders, S in {{1, 2, 4}}, goes on from there for {after['tokens']:,} tokens more. "
        "Equal-token comparisons use the run before it. Every PPL_S is exact for the sampler of S streams."
    )


def strided_table(content: Content) -> str:
    rows = []
    for title, name in (("before", content["equal_steps"]["armd"]), ("after", content["strided"])):
        found = content["runs"][name]["held_out"]
        price = found["strided_2"]["value"] / found["left_to_right"]["value"]
        rows.append([title, *(interval(found[figure]) for figure in FIGURE_NAMES), f"{price:.3f}"])
    return table(["fine-tuning", *FIGURE_NAMES.values(), "PPL_2 / PPL_1"], rows)


def seeds_table(content: Content) -> str:
    rows = []
    for model in content["pair"]:
        values = seed_values(content, model)
        shown = ", ".join(f"{value:.2f}" for value in values)
        rows.append(
            [TITLES[model], KINDS[HEADLINE[model] in BOUNDS], f"{mean(values):.2f}", f"{stdev(values):.2f}", shown]
        )
    return table(["model", "kind", "mean", "standard deviation", "each seed"], rows)


def interval(found: Content) -> str:
    return f"{found['value']:.2f} ({found['low']:.1f} to {found['high']:.1f})"


def number(value: float | Content | None) -> str:
    if isinstance(value, dict):
        return interval(value)
    return "" if value is None else f"{value:.2f}"


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def draw(content: Content, file: Path) -> None:
    """Held-out perplexity or bound of every model, at equal tokens and at equal FLOPs, with 95 % intervals."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.2))
    groups = (
        ("equal tokens", content["equal_steps"], EQUAL_STEPS, -0.14),
        ("equal FLOPs", content["equal_flops"], EQUAL_FLOPS, 0.14),
    )
    for label, names, colour, shift in groups:
        found = [content["runs"][name]["held_out"][HEADLINE[model]] for model, name in names.items()]
        values = [one["value"] for one in found]
        errors = [[one["value"] - one["low"] for one in found], [one["high"] - one["value"] for one in found]]
        places = [index + shift for index in range(len(found))]
        axes.errorbar(values, places, xerr=errors, fmt="o", color=colour, label=label, markersize=5)
        for value, place in zip(values, places, strict=True):
            axes.annotate(
                f"{value:.1f}", (value, place), xytext=(8, 0), textcoords="offset points", fontsize=8, va="center"
            )
    labels = [f"{TITLES[model]} ({KINDS[HEADLINE[model] in BOUNDS]})" for model in MODELS]
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set(xlabel="held-out perplexity, or its bound (lower is better)")
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, format="svg", bbox_inches="tight")
    pyplot.close(figure)
