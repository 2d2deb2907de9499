"""Sentencepiece: our own models, lossless by byte fallback, and models that others trained."""

from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from data_pipeline.errors import DataError

MASK_PIECE = "<mask>"
# Sentencepiece writes a space as this character, and so would read the character itself back as a space.
SPACE_SYMBOL = "\u2581"


class SentencepieceTokenizer:
    """A sentencepiece model as `tokenizer.Backend`."""

    def __init__(self, model: bytes, path: Path) -> None:
        """Take a model's bytes. Raises `DataError` when they are none, or the model has no end-of-document token."""
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.load_from_serialized_proto(model)
            self.vocab_size: int = self._processor.vocab_size()
        except Exception as error:  # the binding's error types differ between versions
            raise DataError(
                f"{path}: neither a sentencepiece model nor a Hugging Face tokenizer folder; "
                "train one with `armd tokenizer train`"
            ) from error
        self.pad_id: int = self._processor.pad_id()
        self.bos_id: int = self._processor.bos_id()
        self.eos_id: int = self._processor.eos_id()
        mask = self._processor.piece_to_id(MASK_PIECE)
        self.mask_id = mask if self._processor.is_control(mask) else -1
        if self.eos_id < 0:
            raise DataError(f"{path}: has no end-of-document token </s>; train one with `armd tokenizer train`")
        pieces = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_SYMBOL.encode()]
        self._space_symbol = pieces if all(self._processor.is_byte(piece) for piece in pieces) else None
        if self._processor.encode("a", out_type=str)[0].startswith(SPACE_SYMBOL):
            self._space_symbol = None  # such a model puts a space before each text, and so before each of its parts

    def encode(self, text: str) -> list[int]:
        """As `Tokenizer.encode`."""
        if self._space_symbol is None or SPACE_SYMBOL not in text:
            return self._processor.encode(text)
        first, *rest = text.split(SPACE_SYMBOL)
        ids = self._processor.encode(first)
        for part in rest:
            ids += self._space_symbol + self._processor.encode(part)
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """As `Tokenizer.encode_batch`."""
        if self._space_symbol is not None and any(SPACE_SYMBOL in text for text in texts):
            return [self.encode(text) for text in texts]
        return self._processor.encode(list(texts), num_threads=1)  # by default a thread for each core

    def decode(self, ids: list[int]) -> str:
        """As `Tokenizer.decode`."""
        return self._processor.decode(ids)

    def pieces(self, ids: list[int]) -> list[str]:
        """As `Tokenizer.pieces`."""
        return [self._processor.id_to_piece(token) for token in ids]

    def token_bytes(self) -> list[int]:
        """As `Tokenizer.token_bytes`."""
        return [self._bytes_of(token) for token in range(self.vocab_size)]

    def _bytes_of(self, token: int) -> int:
        if self._processor.is_byte(token):
            return 1
        if self._processor.is_control(token) or self._processor.is_unknown(token):
            return 0
        return len(self._processor.id_to_piece(token).replace(SPACE_SYMBOL, " ").encode())
