"""Rotary position embedding by the token's place in the text, never by its place in the order."""

import torch
from torch import Tensor

from armd_dist.model.shapes import Angles, Ids


def rotary_angles(positions: Ids, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Angles, Angles]:
    """Cosines and sines, each [rows, batch, head_dim / 2], for positions [batch, rows]."""
    pair = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float64)
    angle = positions.t()[..., None].to(torch.float64) * theta ** (-pair / head_dim)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(rows: Tensor, angles: tuple[Angles, Angles] | None) -> Tensor:
    """Turns pairs (i, i + head_dim / 2) of [rows, batch, heads, head_dim] by their angles; by None not at all."""
    if angles is None:
        return rows
    cos, sin = (part[:, :, None] for part in angles)
    first, second = rows.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
