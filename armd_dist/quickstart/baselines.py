"""What the trained model is measured against: the same network untrained, and the unigram distribution."""

import json
from pathlib import Path

from armd_dist.evaluation.evaluate import Evaluation
from armd_dist.evaluation.items import Windows
from armd_dist.evaluation.scoring import Scorer
from armd_dist.evaluation.study import LEFT_TO_RIGHT
from armd_dist.evaluation.unigram import unigram_perplexity
from armd_dist.model.armd import ARMD
from armd_dist.model.initialization import initialize
from armd_dist.model.layers import PlainLayers
from armd_dist.run import Run
from data_pipeline.files import write_atomically
from data_pipeline.stream import TokenStream
from data_pipeline.tokenizer import Tokenizer


def write_baselines(run: Run, data: Path, file: Path) -> None:
    """Writes {untrained, unigram} perplexities on the held-out text, once."""
    if file.exists():
        return
    held_out = TokenStream(data / "held_out", run.data.sequence_length, seed=0)
    model = ARMD(run.model, PlainLayers()).eval().requires_grad_(False)
    initialize(model, run.model, run.training.seed)
    windows = Windows(
        held_out,
        Tokenizer.load(held_out.folder / held_out.manifest.tokenizer),
        within_document=run.data.within_document,
    )
    untrained = Evaluation(Scorer(model), windows, held_out.manifest.bos_id).perplexity(LEFT_TO_RIGHT)
    assert untrained is not None, "one process has all of it"
    found = {
        "untrained": untrained.value,
        "unigram": unigram_perplexity(TokenStream(data / "train", run.data.sequence_length, seed=0), held_out),
    }
    write_atomically(file, json.dumps(found).encode())
