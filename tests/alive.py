"""Which of the tensors made in a while are still alive at its end: memory measured rather than reasoned."""

from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Alive(TorchDispatchMode):
    """Notes the storage of every tensor that an operation inside returns."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return result

    def bytes(self, apart: list[Tensor]) -> int:
        """Of the storages that live on, without those of `apart`."""
        others = {tensor.untyped_storage()._cdata for tensor in apart}
        return sum(size for key, (ref, size) in self._made.items() if key not in others and not ref.expired())
