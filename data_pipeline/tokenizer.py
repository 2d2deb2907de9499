"""The tokenizer: a sentencepiece model or a Hugging Face tokenizer, in one file either way."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.huggingface_tokenizer import PACKED, HuggingFaceTokenizer, pack
from data_pipeline.sentencepiece_tokenizer import MASK_PIECE, SPACE_SYMBOL, SentencepieceTokenizer

__all__ = ["MASK_PIECE", "SPACE_SYMBOL", "Tokenizer"]


class Backend(Protocol):
    """What a tokenizer must offer; -1 stands for a special token that it does not have."""

    vocab_size: int
    pad_id: int
    bos_id: int
    eos_id: int
    mask_id: int

    def encode(self, text: str) -> list[int]: ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...

    def decode(self, ids: list[int]) -> str: ...

    def pieces(self, ids: list[int]) -> list[str]: ...

    def token_bytes(self) -> list[int] | None: ...


class Tokenizer:
    """Text to token ids and back: `decode(encode(text)) == text` for every text, with one that `armd` trained.

    `encode` adds no special token, and text never parses as one: `"</s>"` in a document is four ordinary characters.
    Foreign tokenizers may lose something of a text; `loss` shows what. One without a beginning-of-text token begins
    with the end-of-document token (as GPT-2 does), and pads with it where it has no padding.

    Attributes: `path`, `content` (the file's bytes, from which it can be made again), `sha256` (hexadecimal, of them),
    `vocab_size`, `pad_id`, `bos_id`, `eos_id`, `mask_id` (None where there is no `<mask>`).
    """

    def __init__(self, content: bytes, path: Path) -> None:
        """Take a tokenizer file's bytes; `path` is for messages. Raises `DataError` when it cannot serve."""
        self.path = path
        self.content = content
        self.sha256 = hashlib.sha256(content).hexdigest()
        packed = content.startswith(PACKED)
        self._backend: Backend = HuggingFaceTokenizer(content) if packed else SentencepieceTokenizer(content, path)
        self.vocab_size = self._backend.vocab_size
        self.eos_id = self._backend.eos_id
        self.bos_id = self._backend.bos_id if self._backend.bos_id >= 0 else self.eos_id
        self.pad_id = self._backend.pad_id if self._backend.pad_id >= 0 else self.eos_id
        self.mask_id = self._backend.mask_id if self._backend.mask_id >= 0 else None

    @classmethod
    def load(cls, path: Path | str) -> "Tokenizer":
        """Read a sentencepiece model, a Hugging Face tokenizer folder, or the file that a dataset keeps of either.

        `DataError` when it is missing, of no known kind, or names no end-of-document token.
        """
        path = Path(path)
        try:
            return cls(pack(path) if path.is_dir() else path.read_bytes(), path)
        except FileNotFoundError:
            raise DataError(f"{path}: no such tokenizer; train one with `armd tokenizer train`") from None
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None

    @property
    def kind(self) -> str:
        """`sentencepiece` or `Hugging Face`."""
        return "Hugging Face" if isinstance(self._backend, HuggingFaceTokenizer) else "sentencepiece"

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; the empty text has none."""
        return self._backend.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, one after another."""
        return self._backend.encode_batch(texts)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; special tokens give nothing. `DataError` for an id outside the vocabulary."""
        plain = [int(token) for token in ids]
        if plain and not 0 <= min(plain) <= max(plain) < self.vocab_size:
            raise DataError(f"{self.path}: token ids {min(plain)} to {max(plain)} leave [0, {self.vocab_size})")
        return self._backend.decode(plain)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The vocabulary's spelling of each id, to look at; sentencepiece spells a space as U+2581."""
        return self._backend.pieces([int(token) for token in ids])

    def token_bytes(self) -> np.ndarray | None:
        """[vocab] bytes of text that each token stands for, 0 for special ones; None where a vocabulary does not tell.

        So models with other tokenizers can be compared by the byte. Sentencepiece and byte-level BPE tell; vocabularies
        that normalise text or leave its spaces out do not.
        """
        sizes = self._backend.token_bytes()
        return None if sizes is None else np.array(sizes)
