"""MAUVE (Pillutla et al. 2021): how far the texts of a model and of people are apart, in a judge's own space."""

import warnings
from importlib.util import find_spec

import numpy as np

FEWEST = 100  # below, clusters hold a handful of texts each and the number is noise; the paper takes 5,000
INSTALL = "mauve-text is not installed: pip install 'armd-dist[mauve]'"


def why_no_mauve(texts: int) -> str | None:
    """What keeps it from being computed for so many texts of each kind; None where nothing does."""
    if texts < FEWEST:
        return f"needs {FEWEST} texts or more"
    return None if find_spec("mauve") else INSTALL


def mauve(reference: np.ndarray, samples: np.ndarray) -> float:
    """MAUVE of hidden states [texts, hidden], for which `why_no_mauve` has no reason. 1 is the best, 0 the worst.

    The judge's states stand in for GPT-2 large's, which the paper takes: numbers compare under one judge alone.
    """
    from mauve import compute_mauve  # pyright: ignore[reportMissingImports]  an optional extra

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(compute_mauve(p_features=reference, q_features=samples, verbose=False).mauve)
