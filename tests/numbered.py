"""Datasets whose tokens say where they stand: token k of the whole sequence is the id `first + k`."""

import hashlib
from pathlib import Path

import numpy as np

from data_pipeline.manifest import FORMAT_VERSION, Manifest, token_dtype
from data_pipeline.shard_writer import ShardWriter


def numbered_dataset(folder: Path, tokens: int, first: int = 0, shard_tokens: int = 300, vocab: int = 1 << 17) -> Path:
    """A dataset of `tokens` tokens in documents of 50, without text behind it; returns its folder."""
    folder.mkdir(parents=True)
    (folder / "tokenizer.model").write_bytes(b"none")
    ids = np.arange(first, first + tokens, dtype=token_dtype(vocab))
    writer = ShardWriter(folder, shard_tokens)
    documents = [ids[start : start + 50] for start in range(0, tokens, 50)]
    for number, document in enumerate(documents):
        writer.add(document, number)
    Manifest(
        format_version=FORMAT_VERSION,
        tokenizer="tokenizer.model",
        tokenizer_sha256=hashlib.sha256(b"none").hexdigest(),
        vocab_size=vocab,
        bos_id=1,
        eos_id=2,
        dtype=token_dtype(vocab),
        documents=len(documents),
        tokens=tokens,
        sources=(),
        build={"first": first},
        shards=writer.finish(len(documents)),
    ).save(folder)
    return folder
