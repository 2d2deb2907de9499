"""The model's own source files, made to stand in one folder and import torch and transformers only."""

import inspect
import re
from pathlib import Path

import armd_dist
from armd_dist.model import shapes

FILES = (
    "model/layers.py",
    "model/visibility.py",
    "model/rotary.py",
    "model/kernels.py",
    "model/parametrization.py",
    "model/attention.py",
    "model/neighbours.py",
    "model/layout.py",
    "model/query_context.py",
    "model/two_stream.py",
    "model/stages.py",
    "model/language_model.py",
    "model/armd.py",
    "orders/strided.py",
    "generation/cache.py",
    "generation/sampling.py",
    "generation/passes.py",
    "generation/ends.py",
    "generation/graph.py",
    "generation/decoder.py",
    "export/huggingface/configuration_armd.py",
    "export/huggingface/alignment.py",
    "export/huggingface/strided_generation.py",
    "export/huggingface/modeling_armd.py",
)

# Where transformers looks for a repository's own generate().
CUSTOM_GENERATE = ("export/huggingface/custom_generate.py", "custom_generate/generate.py")

AUTO_MAP = {
    "AutoConfig": "configuration_armd.ArmdConfig",
    "AutoModel": "modeling_armd.ArmdModel",
    "AutoModelForCausalLM": "modeling_armd.ArmdForCausalLM",
}
MODEL_CLASS = AUTO_MAP["AutoModelForCausalLM"]

_IMPORT = re.compile(r"^from armd_dist\.(?:\w+\.)*(\w+) import", re.MULTILINE)
_MODEL_CONFIG = "from armd_dist.model.config import ModelConfig"
_EXPORTED_CONFIG = "from armd_dist.export.huggingface.configuration_armd import ArmdConfig as ModelConfig"


def write_sources(folder: Path) -> None:
    """Writes the files that an export needs to run by itself."""
    root = Path(inspect.getfile(armd_dist)).parent
    for name in FILES:
        text = (root / name).read_text().replace(_MODEL_CONFIG, _EXPORTED_CONFIG)
        (folder / Path(name).name).write_text(_IMPORT.sub(r"from .\1 import", text))
    (folder / "shapes.py").write_text(_plain_shapes())
    source, target = root / CUSTOM_GENERATE[0], folder / CUSTOM_GENERATE[1]
    target.parent.mkdir()
    target.write_text(source.read_text())


def _plain_shapes() -> str:
    """shapes.py with every shape a plain tensor: annotations must not need jaxtyping."""
    text = (Path(inspect.getfile(shapes))).read_text()
    names = re.findall(r"^(\w+) = \w+\[Tensor", text, re.MULTILINE)
    lines = ['"""Names for the shapes of tensors, see the training package."""', "", "from torch import Tensor", ""]
    return "\n".join(lines + [f"{name} = Tensor" for name in names]) + "\n"
