"""Dropout that follows from the sample and the layer, not from where and when they are computed."""

import hashlib

import torch

EMBEDDING = -1  # the number under which embeddings draw


class Dropout:
    """Seeds torch's generator before each layer, by the run's seed, the micro-batch's first sample and the layer.

    So a pipeline, whatever its stages and their schedule, drops what one process would, and a resumed run what it would
    have dropped. Tensor-parallel processes hold the same hidden states and drop the same numbers; under sequence
    parallelism each has rows of its own, and draws by its `share` of them.
    """

    def __init__(self, seed: int, share: int | None) -> None:
        self.key = f"dropout/{seed}" + ("" if share is None else f"/share-{share}")
        self.sample = 0

    def begin(self, first_sample: int) -> None:
        """A micro-batch's forward pass comes, embeddings first. first_sample: the global number of its first sample."""
        self.sample = first_sample
        self.seed(EMBEDDING)

    def seed(self, layer: int) -> None:
        """What is drawn next belongs to this layer. Recomputing starts from the generator's state, not from here."""
        digest = hashlib.sha256(f"{self.key}/{self.sample}/{layer}".encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
