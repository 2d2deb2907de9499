"""The KV cache: memory for a whole sequence, taken once. Its size is that of an AR model of the same shape."""

from armd_dist.model.config import ModelConfig
from armd_dist.model.shapes import HeadRows


class PreallocatedCache:
    """Keys and values of one layer, [batch, heads, capacity, head_dim] each, filled from the front."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.filled = 0

    def extend(self, keys: HeadRows, values: HeadRows) -> tuple[HeadRows, HeadRows]:
        """Appends rows and returns views of all rows so far."""
        if self.filled == 0:
            # Zeros: what a mask hides must be finite.
            self.keys = keys.new_zeros(*keys.shape[:2], self.capacity, keys.shape[3])
            self.values = values.new_zeros(*values.shape[:2], self.capacity, values.shape[3])
        end = self.filled + keys.shape[2]
        self.keys[:, :, self.filled : end] = keys
        self.values[:, :, self.filled : end] = values
        self.filled = end
        return self.keys[:, :, :end], self.values[:, :, :end]


def make_caches(config: ModelConfig, capacity: int) -> list[PreallocatedCache]:
    """One cache for each layer, and a last one for the query context."""
    return [PreallocatedCache(capacity) for _ in range(config.num_layers + 1)]


def of_query(config: ModelConfig) -> list[bool]:
    """For each of these caches whether it holds query rows, as those of upper layers do, or content rows."""
    assert config.two_stream_layers is not None, "ModelConfig fills it"
    return [layer >= config.two_stream_layers for layer in range(config.num_layers)] + [False]
