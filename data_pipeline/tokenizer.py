"""The tokenizer: sentencepiece with byte fallback, so that every text comes back exactly as it went in."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from data_pipeline.errors import DataError

MASK_PIECE = "<mask>"
# Sentencepiece writes a space as this character, and so would read the character itself back as a space.
SPACE_SYMBOL = "\u2581"


class Tokenizer:
    """Text to token ids and back: `decode(encode(text)) == text` for every text.

    `encode` adds no special token, and text never parses as one: `"</s>"` in a document is four ordinary characters.

    Attributes: `path`, `sha256` (hexadecimal, of the model), `vocab_size`, `pad_id`, `bos_id`, `eos_id`, `mask_id`.
    """

    def __init__(self, model: bytes, path: Path) -> None:
        """Take a sentencepiece model's bytes; `path` is for messages. Raises `DataError` when it is not one of ours."""
        self.path = path
        self.sha256 = hashlib.sha256(model).hexdigest()
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.load_from_serialized_proto(model)
            self.vocab_size: int = self._processor.vocab_size()
        except Exception as error:  # the binding's error types differ between versions
            raise DataError(f"{path}: not a sentencepiece model; train one with `armd tokenizer train`") from error
        self.pad_id: int = self._processor.pad_id()
        self.bos_id: int = self._processor.bos_id()
        self.eos_id: int = self._processor.eos_id()
        self.mask_id: int = self._processor.piece_to_id(MASK_PIECE)
        if min(self.pad_id, self.bos_id, self.eos_id) < 0 or not self._processor.is_control(self.mask_id):
            raise DataError(f"{path}: lacks <pad>, <s>, </s> or <mask>; train one with `armd tokenizer train`")
        self._space_symbol = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_SYMBOL.encode()]
        if not all(self._processor.is_byte(piece) for piece in self._space_symbol):
            raise DataError(f"{path}: has no byte fallback; train a tokenizer with `armd tokenizer train`")

    @classmethod
    def load(cls, path: Path | str) -> "Tokenizer":
        """Read a model file; `DataError` when it is missing, no sentencepiece model, or lacks a special token."""
        path = Path(path)
        try:
            return cls(path.read_bytes(), path)
        except FileNotFoundError:
            raise DataError(f"{path}: no such tokenizer; train one with `armd tokenizer train`") from None
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); name a tokenizer's .model file") from None

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; the empty text has none."""
        if SPACE_SYMBOL not in text:
            return self._processor.encode(text)
        first, *rest = text.split(SPACE_SYMBOL)
        ids = self._processor.encode(first)
        for part in rest:
            ids += self._space_symbol + self._processor.encode(part)
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, on the calling thread."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; special tokens give nothing. `DataError` for an id outside the vocabulary."""
        plain = [int(token) for token in ids]
        if plain and not 0 <= min(plain) <= max(plain) < self.vocab_size:
            raise DataError(f"{self.path}: token ids {min(plain)} to {max(plain)} leave [0, {self.vocab_size})")
        return self._processor.decode(plain)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The vocabulary's spelling of each id, a space as U+2581: for people to look at."""
        return [self._processor.id_to_piece(int(token)) for token in ids]
