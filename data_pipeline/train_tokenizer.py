"""Train the sentencepiece model: lossless, with the five special tokens at fixed ids."""

import hashlib
import io
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import sentencepiece

from data_pipeline.document import Document, ErrorMode
from data_pipeline.errors import DataError
from data_pipeline.files import sha256_of, write_atomically
from data_pipeline.read_text import documents, fingerprint
from data_pipeline.sentencepiece_tokenizer import MASK_PIECE

ModelType = Literal["bpe", "unigram"]

# Sentencepiece drops a longer "sentence" without a word; its limit is 4,192 bytes, a character takes at most 4.
SENTENCE_CHARACTERS = 1000
CHARACTER_COVERAGE = 0.9995

# Ids 0 to 4 are <pad>, <unk>, <s>, </s>, <mask>. <mask> and what the user adds are control symbols, so that no text
# ever parses as one of them.
SPECIAL_TOKENS = {
    "pad_id": 0, "pad_piece": "<pad>", "unk_id": 1, "unk_piece": "<unk>", "bos_id": 2, "bos_piece": "<s>",
    "eos_id": 3, "eos_piece": "</s>",
}  # fmt: skip
# Nothing is normalised away and every byte has a piece: decode(encode(text)) == text.
LOSSLESS = {
    "byte_fallback": True, "normalization_rule_name": "identity", "add_dummy_prefix": False,
    "remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True, "split_digits": True,
}  # fmt: skip


@dataclass(frozen=True)
class TrainedTokenizer:
    """Where the model lies, its SHA-256, and whether an earlier run had already made it."""

    path: Path
    sha256: str
    reused: bool


def train_tokenizer(
    inputs: list[str],
    out: Path,
    vocab_size: int,
    *,
    model_type: ModelType = "bpe",
    character_coverage: float = CHARACTER_COVERAGE,
    sentences: int | None = None,
    seed: int = 0,
    special_tokens: Sequence[str] = (),
    errors: ErrorMode = "strict",
    force: bool = False,
    on_document: Callable[[Document], None] | None = None,
) -> TrainedTokenizer:
    """Train on the documents of `inputs` (as in `read_text.documents`) and write the model to `out`.

    `sentences`: train on so many runs of lines (of at most 1,000 characters), drawn by `seed` from the text of all
    inputs with equal chances; None: on all. All that is trained on is held in memory. `special_tokens`: more symbols
    beside `<mask>`, with ids from 5 on, as which no text ever parses. `character_coverage`: share of the text's
    characters that get a piece; the others are spelt in bytes.

    The same inputs and settings give the same bytes. `out` plus `.json` records them: a rerun that matches keeps the
    model; any other existing `out` raises `DataError` unless `force`. Raises `DataError` as well for text that cannot
    be read, for settings out of range and for a vocabulary that the text cannot fill.
    """
    out = Path(out)
    _check_settings(character_coverage, sentences, special_tokens)
    settings = {
        "inputs": fingerprint(inputs),
        "vocab_size": vocab_size,
        "model_type": model_type,
        "character_coverage": character_coverage,
        "errors": errors,
        # What is not used leaves no trace, so that tokenizers from before it existed are still recognised.
        **({"sentences": sentences, "seed": seed} if sentences is not None else {}),
        **({"special_tokens": list(special_tokens)} if special_tokens else {}),
    }
    record_path = out.with_name(out.name + ".json")
    if out.exists() and not force:
        return _reuse(out, record_path, settings)
    model = _train(
        _watched(documents(inputs, errors), on_document),
        partial(_sample, count=sentences, seed=seed),
        vocab_size=vocab_size,
        model_type=model_type,
        character_coverage=character_coverage,
        control_symbols=[MASK_PIECE, *special_tokens],
    )
    return _write(out, record_path, model, settings)


def _write(out: Path, record_path: Path, model: bytes, settings: dict[str, Any]) -> TrainedTokenizer:
    digest = hashlib.sha256(model).hexdigest()
    try:
        write_atomically(out, model)
        write_atomically(record_path, json.dumps({**settings, "sha256": digest}, indent=2).encode() + b"\n")
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror}); choose another --out") from None
    return TrainedTokenizer(out, digest, reused=False)


def _reuse(out: Path, record_path: Path, settings: dict[str, Any]) -> TrainedTokenizer:
    try:
        digest = sha256_of(out)
        record = json.loads(record_path.read_text())
    except (OSError, ValueError):
        record = digest = None
    if digest is None or record != {**settings, "sha256": digest}:
        raise DataError(
            f"{out}: exists and was made from other text or settings; choose another --out, or pass --force"
        )
    return TrainedTokenizer(out, digest, reused=True)


def _check_settings(character_coverage: float, sentences: int | None, special_tokens: Sequence[str]) -> None:
    if not 0.98 <= character_coverage <= 1:
        raise DataError(f"--character-coverage {character_coverage}: use a share in [0.98, 1]")
    if sentences is not None and sentences < 1:
        raise DataError(f"--sentences {sentences}: use at least 1, or leave it out to train on all of the text")
    taken = {SPECIAL_TOKENS[name] for name in SPECIAL_TOKENS if name.endswith("_piece")} | {MASK_PIECE}
    for token in special_tokens:
        if not token or token in taken or any(character.isspace() for character in token):
            raise DataError(
                f"--special-token {token!r}: is empty, has spaces or is there already; use a name of its own, as <user>"
            )
        taken.add(token)


def _train(
    texts: Iterable[Document], sample: Callable[[Iterator[str]], Iterable[str]], *, vocab_size: int, **settings: Any
) -> bytes:
    model, failures = io.BytesIO(), []
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sample(_sentences(texts, failures))),
            model_writer=model,
            vocab_size=vocab_size,
            minloglevel=2,
            **settings,
            **LOSSLESS,
            **SPECIAL_TOKENS,
        )
    except RuntimeError as error:
        raise (failures[0] if failures else DataError(_explain(str(error), vocab_size))) from None
    return model.getvalue()


def _watched(texts: Iterable[Document], on_document: Callable[[Document], None] | None) -> Iterator[Document]:
    for document in texts:
        if on_document is not None:
            on_document(document)
        yield document


def _sentences(texts: Iterable[Document], failures: list[Exception]) -> Iterator[str]:
    """Runs of whole lines under the length limit. The C++ trainer turns an exception to text, so keep the original."""
    try:
        for document in texts:
            yield from _cut(document.text)
    except Exception as error:
        failures.append(error)
        raise


def _sample(sentences: Iterator[str], count: int | None, seed: int) -> Iterable[str]:
    """`count` of them, each set with equal chances (reservoir sampling), in their own order; all where None."""
    if count is None:
        return sentences
    draw, kept = random.Random(seed), []
    for number, sentence in enumerate(sentences):
        if number < count:
            kept.append((number, sentence))
        elif (place := draw.randrange(number + 1)) < count:
            kept[place] = (number, sentence)
    return [sentence for _, sentence in sorted(kept)]


def _cut(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = min(start + SENTENCE_CHARACTERS, len(text))
        if end < len(text):
            # After a line where there is one, else before a word: a space belongs to the word that follows it.
            end = (text.rfind("\n", start, end) + 1) or max(text.rfind(" ", start + 1, end), 0) or end
        yield text[start:end]
        start = end


def _explain(message: str, vocab_size: int) -> str:
    if largest := re.search(r"too high .*value <= (\d+)", message):
        return f"--vocab-size {vocab_size} is too large for this text; use at most {largest[1]}, or give more text"
    if needed := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return f"--vocab-size {vocab_size} is too small for the bytes and characters of this text; use over {needed[1]}"
    if "sentences_.empty()" in message:
        return "the inputs hold no text to train a tokenizer on; check the --input files"
    return f"sentencepiece could not train a tokenizer of {vocab_size} pieces: {message}"
