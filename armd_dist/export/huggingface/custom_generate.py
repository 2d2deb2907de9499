"""transformers' way to a decoding loop of a repository's own: it stands in the export as custom_generate/generate.py.

A model loaded from the folder with trust_remote_code has it as its generate(), and a model from elsewhere calls it by
generate(custom_generate=FOLDER, trust_remote_code=True). The loop is the class's own, in modeling_armd.py.
"""

from typing import Any


def generate(*args: Any, model: Any, **kwargs: Any) -> Any:
    """generate() of the model's class: transformers' own, or with streams= strided decoding."""
    return type(model).generate(model, *args, **kwargs)
