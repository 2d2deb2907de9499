"""What the trained model is measured against: the same network untrained, and the unigram distribution."""

import json
from pathlib import Path

from armd_dist.evaluation.likelihood import evaluate_strided
from armd_dist.evaluation.unigram import unigram_perplexity
from armd_dist.model.armd import ARMD
from armd_dist.model.initialization import initialize
from armd_dist.model.layers import PlainLayers
from armd_dist.run import Run
from data_pipeline.files import write_atomically
from data_pipeline.stream import TokenStream


def write_baselines(run: Run, data: Path, file: Path) -> None:
    """Writes {untrained, unigram} perplexities on the held-out text, once."""
    if file.exists():
        return
    held_out = TokenStream(data / "held_out", run.data.sequence_length, seed=0)
    model = ARMD(run.model, PlainLayers()).eval().requires_grad_(False)
    initialize(model, run.model, run.training.seed)
    found = {
        "untrained": evaluate_strided(model, held_out, 1, within_document=run.data.within_document).value,
        "unigram": unigram_perplexity(TokenStream(data / "train", run.data.sequence_length, seed=0), held_out),
    }
    write_atomically(file, json.dumps(found).encode())
