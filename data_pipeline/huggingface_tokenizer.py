"""Hugging Face tokenizers: a folder of theirs (GPT-2's, say), packed into one file that serves as the model file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Fast
from tokenizers import decoders, models, pre_tokenizers

from data_pipeline.errors import DataError

PACKED = b'{"armd_tokenizer": 1'  # how a packed file begins
END_OF_TEXT = "<|endoftext|>"  # GPT-2's only special token


class HuggingFaceTokenizer:
    """A packed Hugging Face tokenizer as `tokenizer.Backend`."""

    def __init__(self, content: bytes) -> None:
        """Take the bytes that `pack` made."""
        packed = json.loads(content)
        self._fast = _ready(Fast.from_str(json.dumps(packed["tokenizer"])))
        self.vocab_size = 1 + max(self._fast.get_vocab(with_added_tokens=True).values())
        self.pad_id: int = packed["pad_id"]
        self.bos_id: int = packed["bos_id"]
        self.eos_id: int = packed["eos_id"]
        self.mask_id = -1

    def encode(self, text: str) -> list[int]:
        """As `Tokenizer.encode`."""
        return self._fast.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """As `Tokenizer.encode_batch`; the library's own batches would start a thread for each core."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: list[int]) -> str:
        """As `Tokenizer.decode`."""
        return self._fast.decode(ids, skip_special_tokens=True)

    def pieces(self, ids: list[int]) -> list[str]:
        """As `Tokenizer.pieces`."""
        return [self._fast.id_to_token(token) or "" for token in ids]

    def token_bytes(self) -> list[int] | None:
        """As `Tokenizer.token_bytes`. Byte-level pieces have a character for each byte."""
        if self._fast.decoder is None or "ByteLevel" not in str(self._fast.decoder):
            return None
        special = {number for number, token in self._fast.get_added_tokens_decoder().items() if token.special}
        return [0 if n in special else len(piece) for n, piece in enumerate(self.pieces(list(range(self.vocab_size))))]


def pack(folder: Path) -> bytes:
    """One file of a folder that holds `tokenizer.json`, or GPT-2's `vocab.json` and `merges.txt`.

    Beginning, end and padding of text are those of `tokenizer_config.json` or `special_tokens_map.json`, else
    `<|endoftext|>`. The same folder gives the same bytes. Raises `DataError` when the folder holds no such tokenizer,
    or none of these names an end of text that is in the vocabulary.
    """
    fast, named = _read(folder), _special_tokens(folder)
    vocabulary = fast.get_vocab(with_added_tokens=True)
    end = named.get("eos_token", END_OF_TEXT)
    if end not in vocabulary:
        raise DataError(
            f"{folder}: the end-of-text token {end!r} is not in the vocabulary; "
            'name one in tokenizer_config.json: {"eos_token": "..."}'
        )
    _mark_special(fast, [token for token in (*named.values(), end) if token in vocabulary])
    ids = {f"{name}_id": vocabulary.get(named.get(f"{name}_token", ""), -1) for name in ("pad", "bos")}
    return json.dumps(
        {"armd_tokenizer": 1, **ids, "eos_id": vocabulary[end], "tokenizer": json.loads(fast.to_str())},
        ensure_ascii=False,
    ).encode()


def _read(folder: Path) -> Fast:
    try:
        if (folder / "tokenizer.json").exists():
            return _ready(Fast.from_file(str(folder / "tokenizer.json")))
        if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
            return _gpt2(folder)
    except Exception as error:  # the binding raises bare Exception
        raise DataError(f"{folder}: its tokenizer cannot be read ({error}); restore the folder") from None
    raise DataError(
        f"{folder}: holds no Hugging Face tokenizer: neither tokenizer.json nor vocab.json with merges.txt; "
        "name a sentencepiece .model file or such a folder"
    )


def _gpt2(folder: Path) -> Fast:
    """The byte-level BPE that GPT-2 was published as."""
    fast = Fast(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    fast.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    return fast


def _ready(fast: Fast) -> Fast:
    """Whole texts, unpadded, in which the names of special tokens are ordinary characters."""
    fast.no_truncation()
    fast.no_padding()
    fast.encode_special_tokens = True
    return fast


def _mark_special(fast: Fast, tokens: list[str]) -> None:
    fast.add_special_tokens(sorted(set(tokens)))
    fast.encode_special_tokens = True


def _special_tokens(folder: Path) -> dict[str, str]:
    """`eos_token` and the like by name, from whichever file tells."""
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        if not path.exists():
            continue
        try:
            settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            for key in ("bos_token", "eos_token", "pad_token"):
                value = settings.get(key)
                text = value.get("content") if isinstance(value, dict) else value
                if isinstance(text, str):
                    found[key] = text
        except (ValueError, AttributeError) as error:
            raise DataError(f"{path}: cannot be read ({error}); restore the folder") from None
    return found
