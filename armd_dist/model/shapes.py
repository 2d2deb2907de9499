"""Tensor shapes by name, checked when the test suite runs.

seq: rows of a stream; batch: sequences; hidden: model width; heads: attention heads of this process; head_dim: their
width; vocab: rows of the embedding held by this process. Exported models carry these names as plain tensors.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

Ids = Int[Tensor, "batch rows"]  # token ids, positions or blocks, batch first
KeyIds = Int[Tensor, "batch keys"]  # the same of content rows, whose number may differ from that of query rows
OwnHidden = Float[Tensor, "own_rows batch hidden"]  # the rows of this process: all, but under sequence parallelism
Hidden = Float[Tensor, "rows batch hidden"]  # sequence first inside the network, as in Megatron
KeyHidden = Float[Tensor, "keys batch hidden"]
HeadRows = Float[Tensor, "batch heads rows head_dim"]
HeadKeys = Float[Tensor, "batch heads keys head_dim"]
GroupKeys = Float[Tensor, "batch groups keys head_dim"]  # a head for each group of query heads
Angles = Float[Tensor, "rows batch half_head_dim"]
KeyAngles = Float[Tensor, "keys batch half_head_dim"]
Logits = Float[Tensor, "rows batch vocab"]
Scores = Float[Tensor, "rows batch"]  # one number per predicted token
Visible = Bool[Tensor, "batch rows keys"]
Masked = Bool[Tensor, "batch rows"]
Weights = Float[Tensor, "batch rows"]  # of each token's nats in the loss
Weight = Float[Tensor, "out in"]
Times = Float[Tensor, "batch"]  # of each text in a diffusion process, from 0 (all known) to 1 (all hidden)
