"""The judge: another causal language model, in a Hugging Face folder on this machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from armd_dist.errors import EvaluationError

JudgeDtype = Literal["float32", "bfloat16", "float16"]
PROBE_TOKENS = 8


@dataclass(frozen=True)
class Judge:
    """A causal language model of Hugging Face, as it stands in a folder.

    context: tokens that it takes, None where its settings do not say. start: the token in front of each text, its
    beginning of text, or its end where it has none; end: what stands between two documents of a sample. gives_states:
    whether it tells its hidden states.
    """

    path: str
    model: Any
    tokenizer: Any
    dtype: JudgeDtype
    context: int | None
    start: int
    end: int
    gives_states: bool


def open_judge(path: Path, dtype: str = "float32", device: str = "cpu", trust_remote_code: bool = False) -> Judge:
    """A judge from a folder on this machine; nothing is downloaded. Raises EvaluationError.

    trust_remote_code: whether Python files in the folder may run, which an export of ours needs.
    """
    where = f"--judge {path}"
    if dtype not in get_args(JudgeDtype):
        raise EvaluationError(f"--judge-dtype {dtype}: is unknown; use {', '.join(get_args(JudgeDtype))}")
    if not (path / "config.json").is_file():
        raise EvaluationError(f"{where}: holds no config.json; give the folder of a Hugging Face causal model")
    model = _load_model(where, path, dtype, trust_remote_code).to(device)
    tokenizer = _load_tokenizer(where, path, trust_remote_code)
    settings = model.config.get_text_config()
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= settings.vocab_size:
        raise EvaluationError(
            f"{where}: its tokenizer has ids up to {largest}, its model {settings.vocab_size} rows for them; "
            "one of the two belongs to another model"
        )
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if start is None:
        raise EvaluationError(f"{where}: names no bos_token or eos_token, so that no first token can be judged")
    end = start if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    context, states = _context(settings, tokenizer), _gives_states(model, start)
    judge = Judge(str(path), model, tokenizer, dtype, context, start, end, states)  # type: ignore[arg-type]
    _check_causal(judge, where)
    return judge


def _load_model(where: str, path: Path, dtype: str, trust: bool) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": trust, "output_loading_info": True}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype), **local)
        model, about = loaded
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, AttributeError) as error:
        if not trust and "trust_remote_code" in str(error):
            rule = "brings Python files of its own; where you trust them, say --trust-remote-code"
            raise EvaluationError(f"{where}: {rule}") from error
        raise EvaluationError(f"{where}: is no causal model that loads ({_first(error)})") from error
    if missing := sorted(about["missing_keys"]):
        raise EvaluationError(f"{where}: lacks weights of its model, such as {missing[0]}; give a complete folder")
    return model.eval().requires_grad_(False)


def _load_tokenizer(where: str, path: Path, trust: bool) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=trust)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, AttributeError, TypeError) as error:
        raise EvaluationError(f"{where}: has no tokenizer that loads ({_first(error)})") from error
    # transformers makes an empty tokenizer where its files are missing.
    ids = tokenizer("The order of words", add_special_tokens=False).input_ids
    if not set(ids) - {tokenizer.unk_token_id}:
        raise EvaluationError(f"{where}: has no tokenizer; put its files (tokenizer.json) beside the model's")
    return tokenizer


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _context(settings: Any, tokenizer: Any) -> int | None:
    """Tokens that the judge takes; a tokenizer without a limit says 1e30."""
    known = [getattr(settings, "max_position_embeddings", None), tokenizer.model_max_length]
    limits = [int(limit) for limit in known if limit is not None and 0 < limit < 1 << 40]
    return min(limits, default=None)


@torch.no_grad()
def _gives_states(model: Any, start: int) -> bool:
    ids = torch.full((1, 1), start, device=model.device)
    try:
        return getattr(model(input_ids=ids, output_hidden_states=True), "hidden_states", None) is not None
    except ValueError:  # how an export of ours refuses
        return False


@torch.no_grad()
def _check_causal(judge: Judge, where: str) -> None:
    """Padding goes unmasked behind the texts, so what comes later must not count; nor would a perplexity mean much."""
    ids = torch.full((1, PROBE_TOKENS), judge.start, device=judge.model.device)
    other = ids.clone()
    other[:, -1] = (judge.start + 1) % judge.model.config.get_text_config().vocab_size
    first, second = (judge.model(input_ids=row).logits[:, :-1].float() for row in (ids, other))
    if not torch.allclose(first, second, rtol=1e-3, atol=1e-3 * first.abs().max().item()):
        raise EvaluationError(f"{where}: sees tokens to come; give a causal model, such as GPT-2")
