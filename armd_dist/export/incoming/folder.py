"""A pretrained model's Hugging Face folder: its settings, and its tensors one by one."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from armd_dist.errors import ConfigError, IncomingError, Problem
from armd_dist.export.files import INDEX
from data_pipeline.tokenizer import Tokenizer

ONE_FILE = "model.safetensors"


class Incoming:
    """Tensors by their names without `prefix`, in fp32, each to be taken once; settings as config.json has them."""

    def __init__(self, folder: Path) -> None:
        """Raises IncomingError where the folder lacks settings or safetensors."""
        self.folder, self.config = folder, folder / "config.json"
        try:
            self.settings: dict[str, Any] = json.loads(self.config.read_text())
            self.kind = self.settings.get("model_type")
        except (OSError, ValueError, AttributeError) as error:
            raise IncomingError(f"{self.config}: cannot be read ({error}); give a Hugging Face folder") from error
        self.prefix, self.problems, self._places = "", list[Problem](), _places(folder)

    def drop_prefix(self, prefix: str) -> None:
        """Tensors may be saved with the head's class around the network, or without."""
        if any(name.startswith(prefix) for name in self._places):
            self.prefix = prefix

    def take(self, name: str, *shape: int) -> Tensor:
        """Raises IncomingError where there is none of this name and shape."""
        full = name if name in self._places else f"{self.prefix}{name}"
        file = self._places.pop(full, None)
        if file is None:
            raise IncomingError(
                f"{self.folder}: lacks the tensor {full} that {self.config} promises; download it again"
            )
        try:
            with safe_open(file, "pt") as stream:
                tensor = stream.get_tensor(full).to(torch.float32)
        except (SafetensorError, OSError) as error:
            raise IncomingError(f"{file}: cannot be read ({error}); download it again") from error
        if tensor.shape != shape:
            rule = f"has shape {tuple(tensor.shape)} instead of {shape}"
            raise IncomingError(f"{file}: {full} {rule}; download it again, or restore {self.config}")
        return tensor

    def has(self, name: str) -> bool:
        return name in self._places or f"{self.prefix}{name}" in self._places

    def refuse_rest(self, known: Collection[str] = ()) -> None:
        """Raises IncomingError for tensors that nobody took; names that end with one of `known` mean nothing."""
        left = sorted(name for name in self._places if not name.endswith(tuple(known)))
        if left:
            more = f" and {len(left) - 3} more" if len(left) > 3 else ""
            raise IncomingError(
                f"{self.folder}: has tensors that a network of its settings does not ({', '.join(left[:3])}{more}); "
                "merge adapters, or give the model as it was published"
            )

    def expect(self, name: str, default: Any, *allowed: Any) -> None:
        """Notes a problem where a setting is none of what the network can compute."""
        value = self.settings.get(name, default)
        if value not in allowed:
            rule = "is nothing that the network here can compute"
            remedy = f"give a model with {name}={' or '.join(map(str, allowed))}"
            self.problems.append(Problem(f"{self.config}: {name}", value, rule, remedy))

    def settle(self) -> None:
        """Raises ConfigError with all problems noted."""
        if self.problems:
            raise ConfigError(self.problems)

    def length(self, asked: int | None, longest: int, usual: int) -> int:
        """The network's longest sequence: what is asked for, or as much as was trained, up to `usual`."""
        if asked is not None and asked > longest:
            rule = f"is longer than the model was made for, {longest}"
            self.problems.append(Problem("--max-sequence-length", asked, rule, f"use at most {longest}"))
        return asked or min(longest, usual)

    def tokenizer(self, rows: int) -> Tokenizer:
        """Raises DataError where there is none, IncomingError where it has more tokens than the embedding `rows`."""
        fast = any((self.folder / name).exists() for name in ("tokenizer.json", "vocab.json"))
        only = self.folder / "tokenizer.model"
        found = Tokenizer.load(self.folder if fast or not only.exists() else only)
        if found.vocab_size > rows:
            rule = f"its tokenizer has {found.vocab_size} tokens and its embedding {rows} rows"
            raise IncomingError(f"{self.folder}: {rule}; resize the embedding, or leave out the tokens added last")
        return found


def _places(folder: Path) -> dict[str, Path]:
    """The file of every tensor."""
    try:
        if (folder / INDEX).exists():
            names = json.loads((folder / INDEX).read_text())["weight_map"]
            return {name: folder / file for name, file in names.items()}
        with safe_open(folder / ONE_FILE, "pt") as stream:
            return dict.fromkeys(stream.keys(), folder / ONE_FILE)
    except FileNotFoundError:
        raise IncomingError(
            f"{folder}: holds no {ONE_FILE}; load it in transformers and save it with save_pretrained"
        ) from None
    except (SafetensorError, OSError, ValueError, LookupError, AttributeError) as error:
        raise IncomingError(f"{folder}: its safetensors cannot be read ({error}); download them again") from error
