"""The baseline that any language model must beat: tokens drawn independently with their training frequencies."""

import math

import numpy as np

from data_pipeline.stream import TokenStream

CHUNK = 1 << 20


def unigram_perplexity(train: TokenStream, held_out: TokenStream) -> float:
    """Perplexity of the held-out windows under the training data's token frequencies, smoothed by one count each."""
    counts = token_counts(train) + 1
    log_probability = np.log(counts / counts.sum())
    held_out_counts = token_counts(held_out)
    return math.exp(-(held_out_counts * log_probability).sum() / held_out_counts.sum())


def token_counts(stream: TokenStream) -> np.ndarray:
    """[vocab] how often each token stands in the stream's windows."""
    total = stream.num_windows * stream.sequence_length
    counts = np.zeros(stream.manifest.vocab_size, dtype=np.int64)
    for start in range(0, total, CHUNK):
        tokens = stream.tokens(start, min(start + CHUNK, total))
        counts += np.bincount(tokens, minlength=len(counts))
    return counts
