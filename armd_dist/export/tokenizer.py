"""A Hugging Face fast tokenizer with the ids of ours, so that an exported model needs neither us nor sentencepiece."""

import json
from pathlib import Path
from typing import Any

from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, processors
from transformers import PreTrainedTokenizerFast

from armd_dist.errors import ExportError
from data_pipeline.tokenizer import MASK_PIECE, SPACE_SYMBOL, Tokenizer

# What tokenizers disagree about. An export that encodes one of these differently is not written.
HARD_TEXTS = (
    "",
    " ",
    "  ",
    " leading, trailing ",
    "double  spaces   and\u00a0others\u2003\u3000",
    "tabs\t\tnewlines\n\n\nreturns\r\n\r",
    "def f(x):\n    return {'a': [x ** 2, -1.5e-3]}\n\n\n# ==== ----\n",
    "0 00 1234567890 3.14159 ½ ² ٣ 一二三",
    "e\u0301 \u00e9 combining\u0323\u0307 \ufb01 \u2460 \uff21 \u212b",
    "👨‍👩‍👧‍👦 🏳️‍🌈 🎉🎉 👍🏽",
    "汉字かなカナ한국어",
    "العربية \u200f שלום हिन्दी ไทย",
    "<s>",
    "</s> <pad><unk> text<mask> <s ><mask",
    "<0x0A><0xE2><0x96><0x81>",
    "\x00 \x01\x7f\ufeff\u2028\u2029\u0085\ufffd \U0010ffff",
    "\u2581",
    "a\u2581b \u2581\u2581 \u2581the",
    "▅ ⁇ 𝔘𝔫𝔦",
    "aaaaaaaaaaaaa ababababa --------- .......",
    "The order of the words may change, but the words themselves stay as they are. " * 50,
)


def write_fast_tokenizer(tokenizer_model: Path, out: Path, model_max_length: int) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` into the folder `out`: of a sentencepiece BPE model, or of the
    Hugging Face tokenizer that a dataset was built with.

    `AutoTokenizer.from_pretrained(out)` then encodes any text to the ids of `Tokenizer.encode`, after one BOS unless
    `add_special_tokens=False`; special tokens in a text are plain characters to both. Sentencepiece decides between
    equally good merges by their place in the text, this one by the parts' lengths, so the equality is checked on
    `HARD_TEXTS`. Raises `ExportError`, and writes nothing, when one of them differs or the model is not BPE, and
    `DataError` when `tokenizer_model` is no tokenizer.
    """
    ours = require_exportable(tokenizer_model)
    if ours.kind == "sentencepiece":
        model = sentencepiece_model_pb2.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
        model.ParseFromString(ours.content)
        fast = _fast_tokenizer(model, model_max_length)
    else:
        fast = _unpacked(ours, model_max_length)
    _verify(fast, ours)
    fast.save_pretrained(str(out))


def require_exportable(tokenizer_model: Path) -> Tokenizer:
    """The tokenizer; `ExportError` where it is none that an export can hold."""
    ours = Tokenizer.load(tokenizer_model)
    if ours.kind != "sentencepiece":
        return ours
    model = sentencepiece_model_pb2.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
    model.ParseFromString(ours.content)
    if model.trainer_spec.model_type != model.trainer_spec.BPE:
        # Unigram sums float32 scores in sentencepiece and float64 in tokenizers: near-ties come out differently.
        raise ExportError(f"{tokenizer_model}: export of unigram is not supported yet; train with --model-type bpe")
    return ours


def _fast_tokenizer(model: Any, model_max_length: int) -> PreTrainedTokenizerFast:
    # Spaces stay spaces in this vocabulary, so U+2581 in a text has no piece and falls back to bytes, as in ours.
    spelling = [piece.piece.replace(SPACE_SYMBOL, " ") for piece in model.pieces]
    scores = {
        text: piece.score for text, piece in zip(spelling, model.pieces, strict=True) if piece.type == piece.NORMAL
    }
    special = model.trainer_spec
    vocabulary = {text: number for number, text in enumerate(spelling)}
    backend = Backend(
        models.BPE(vocab=vocabulary, merges=_merges(scores), unk_token=special.unk_piece, byte_fallback=True)
    )
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    bos = special.bos_piece
    known = (bos, special.eos_piece, special.pad_piece, MASK_PIECE)
    more = [piece.piece for piece in model.pieces if piece.type == piece.CONTROL and piece.piece not in known]
    return _behind_bos(
        backend,
        model_max_length,
        bos_token=bos,
        eos_token=special.eos_piece,
        unk_token=special.unk_piece,
        pad_token=special.pad_piece,
        mask_token=MASK_PIECE,
        additional_special_tokens=more,
    )


def _unpacked(ours: Tokenizer, model_max_length: int) -> PreTrainedTokenizerFast:
    """The tokenizer in a packed file. What it put around a text makes room for BOS alone."""
    backend = Backend.from_str(json.dumps(json.loads(ours.content)["tokenizer"]))
    ids = {"bos_token": ours.bos_id, "eos_token": ours.eos_id, "pad_token": ours.pad_id}
    return _behind_bos(backend, model_max_length, **{name: backend.id_to_token(number) for name, number in ids.items()})


def _behind_bos(backend: Backend, model_max_length: int, **special: Any) -> PreTrainedTokenizerFast:
    """With BOS in front of every text, and special tokens' names in a text as plain characters."""
    bos = special["bos_token"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, backend.token_to_id(bos))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=model_max_length,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
        **special,
    )


def _merges(scores: dict[str, float]) -> list[tuple[str, str]]:
    """Every way to put two pieces together to a third, best piece first.

    Sentencepiece merges any neighbours whose text is a piece, so a piece counts with all its splits, not only with
    the one that training took. Among those of one piece, the longest left part goes first: in a run of one character
    sentencepiece merges from the left, which leaves the short rest on the right.
    """
    merges = []
    for piece in sorted(scores, key=lambda text: -scores[text]):
        splits = ((piece[:cut], piece[cut:]) for cut in range(len(piece) - 1, 0, -1))
        merges += [(left, right) for left, right in splits if left in scores and right in scores]
    return merges


def _verify(fast: PreTrainedTokenizerFast, ours: Tokenizer) -> None:
    for text in HARD_TEXTS:
        ids = ours.encode(text)
        plain = fast.encode(text, add_special_tokens=False, verbose=False)
        same = plain == ids and fast.encode(text, verbose=False) == [ours.bos_id, *ids]
        if not same or fast.decode(ids, skip_special_tokens=True) != ours.decode(ids):
            raise ExportError(
                f"{ours.path}: the exported tokenizer differs from it on {text[:80]!r}; "
                "evaluate and generate from the checkpoint, or train with a tokenizer of `armd tokenizer train`"
            )
