"""Small AR models of transformers, with tokenizers, in folders as they are published. All weights are random ones."""

from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

VOCAB, POSITIONS = 300, 24
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": POSITIONS},
    "gpt2_untied": {"n_embd": 32, "n_layer": 3, "n_head": 2, "n_positions": POSITIONS, "n_inner": 48},
    "llama": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40},
    "llama_grouped": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40},
}
SHAPES["gpt2_untied"] |= {"tie_word_embeddings": False}
SHAPES["llama"] |= {"max_position_embeddings": POSITIONS, "tie_word_embeddings": True}
SHAPES["llama_grouped"] |= {"max_position_embeddings": 9000, "num_key_value_heads": 2, "rms_norm_eps": 1e-6}
SHAPES["llama_grouped"] |= {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}


def tokenizer(folder: Path, texts: list[str], size: int = VOCAB) -> None:
    """GPT-2's kind, in vocab.json and merges.txt."""
    made = ByteLevelBPETokenizer()
    made.train_from_iterator(texts, vocab_size=size, special_tokens=["<|endoftext|>"], show_progress=False)
    made.save_model(str(folder))


def publish(folder: Path, kind: str, **changes: Any) -> Any:
    """Saves a model with biases and norms that show, and returns it."""
    common = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 0, **SHAPES[kind], **changes}
    if kind.startswith("gpt2"):
        model: Any = GPT2LMHeadModel(GPT2Config(**common))
    else:
        model = LlamaForCausalLM(LlamaConfig(**common))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    model.eval().save_pretrained(folder)
    tokenizer(folder, list(topics.values())[:5])
    return model
