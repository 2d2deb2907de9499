"""What benchmarks/quality.py claims of its results, and whether it holds."""

from statistics import mean, stdev
from typing import Any

from models import HEADLINE

AR_MARGIN, STRIDED_MARGIN = 1.05, 1.10

Content = dict[str, Any]


def seed_values(content: Content, model: str) -> list[float]:
    """The held-out headline of every seed."""
    return [content["runs"][name]["held_out"][HEADLINE[model]]["value"] for name in content["seeds"][model]]


def claims(content: Content) -> list[Content]:
    """Three claims on held-out text: what is compared, means over seeds, their spread, and whether it holds."""
    after = content["runs"][content["strided"]]["held_out"]
    one, two = after["left_to_right"]["value"], after["strided_2"]["value"]
    armd, ar, mdlm = (seed_values(content, model) for model in ("armd", "ar", "mdlm"))
    return [
        _claim(
            "ARMD's PPL_1 (curriculum, exact) is at most MDLM's bound, equal tokens",
            (f"ARMD's PPL_1 {spread(armd)}", f"MDLM's bound {spread(mdlm)}"),
            mean(armd),
            mean(mdlm),
        ),
        _claim(
            f"ARMD's PPL_1 is within {AR_MARGIN - 1:.0%} of AR's PPL_1, equal tokens",
            (f"ARMD's PPL_1 {spread(armd)}", f"{AR_MARGIN:g} x AR's PPL_1 {spread(ar)}"),
            mean(armd),
            AR_MARGIN * mean(ar),
        ),
        _claim(
            f"PPL_2 is within {STRIDED_MARGIN - 1:.0%} of PPL_1 after strided fine-tuning",
            (f"ARMD's PPL_2 {spread([two])}", f"{STRIDED_MARGIN:g} x the same run's PPL_1 {spread([one])}"),
            two,
            STRIDED_MARGIN * one,
        ),
    ]


def _claim(text: str, compared: tuple[str, str], value: float, limit: float) -> Content:
    return {"claim": text, "compared": compared, "value": value, "limit": limit, "holds": value <= limit}


def claim_line(claim: Content) -> str:
    verdict, (left, right) = "PASS" if claim["holds"] else "FAIL", claim["compared"]
    numbers = f"{claim['value']:.2f} against a limit of {claim['limit']:.2f}"
    return f"- **{verdict}** {claim['claim']}: {left} against {right}, that is {numbers}"


def spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds."""
    if len(values) == 1:
        return f"{values[0]:.2f} (one seed)"
    return f"{mean(values):.2f} (mean of {len(values)} seeds, standard deviation {stdev(values):.2f})"
