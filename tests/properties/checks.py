"""The properties that every implementation must prove, as functions from a model and rows to the largest violation.

The tests ask that they are small; the mutation tests ask that each planted bug makes one of them large.
"""

import torch
from torch import Tensor
from toys import BOS, Rows, behind_prompt, block_list, rows_of

from armd_dist.generation.decoder import decode
from armd_dist.generation.passes import make_batch, turns_of
from armd_dist.generation.sampling import Sampling
from armd_dist.model.armd import ARMD
from armd_dist.objectives.likelihood import token_nll
from armd_dist.orders.order import Order
from armd_dist.orders.schemes import left_to_right


def logits_of(model: ARMD, rows: Rows) -> Tensor:
    """[batch, rows, vocab] without the padding of the vocabulary."""
    return model(rows.layout()).transpose(0, 1)[..., : model.config.vocab_size]


def influence_by_gradient(model: ARMD, rows: Rows) -> Tensor:
    """[n, m]: how much a random projection of row n's logits moves with the embedding of token m, wherever it is read.

    One sequence of distinct tokens and an untied head: then an embedding row is one token's input and nothing else.
    """
    assert rows.ids.unique().numel() == rows.ids.numel()
    assert not model.config.tie_embeddings
    logits = logits_of(model, rows)[0]
    direction = torch.randn(logits.shape[-1], generator=torch.Generator().manual_seed(0), dtype=logits.dtype)
    weight = model.tokens.weight
    grads = [torch.autograd.grad(row @ direction, weight, retain_graph=True, allow_unused=True)[0] for row in logits]
    of_tokens = [torch.zeros_like(weight) if grad is None else grad for grad in grads]
    return torch.stack([grad[rows.ids[0]].abs().amax(-1) for grad in of_tokens])


@torch.no_grad()
def influence_by_intervention(model: ARMD, rows: Rows) -> Tensor:
    """[n, m]: the largest change of row n's logits when token m is exchanged for another one."""
    count = rows.ids.shape[1]
    ids = rows.ids.expand(count + 1, -1).clone()
    changed = torch.arange(count)
    ids[changed, changed] = (ids[changed, changed] + 7) % model.config.vocab_size
    same = (part.expand(count + 1, -1) for part in (rows.positions, rows.blocks))
    logits = logits_of(model, Rows(ids, *same))
    return (logits[:-1] - logits[-1:]).abs().amax(-1).t()


def visible_pairs(rows: Rows) -> Tensor:
    """[n, m]: whether token m is in a strictly earlier block than row n."""
    blocks = rows.blocks[0]
    return blocks[None, :] < blocks[:, None]


def leak(influence: Tensor, rows: Rows) -> float:
    """The largest influence of a token on a row that must not know it."""
    return influence[~visible_pairs(rows)].max().item()


def blindness(influence: Tensor, rows: Rows) -> float:
    """The share of visible tokens without any influence on a row that may know them."""
    return (influence[visible_pairs(rows)] < 1e-9).double().mean().item()


@torch.no_grad()
def one_pass_against_many(model: ARMD, rows: Rows) -> float:
    """One pass against one pass a block that gets only the tokens revealed so far, the others being garbage."""
    together = token_nll(model, rows.layout(), rows.ids).t()
    worst = 0.0
    for block in rows.blocks.unique():
        known, now = rows.blocks[0] < block, rows.blocks[0] == block
        garbage = torch.randint(model.config.vocab_size, rows.ids.shape, generator=_seeded(int(block)))
        # The logits of the garbage rows are computed and thrown away; the targets are the true tokens.
        step = Rows(torch.where(known, rows.ids, garbage), rows.positions, rows.blocks)
        apart = token_nll(model, step.layout(), rows.ids).t()
        so_far = (known | now).nonzero()[:, 0]
        short = token_nll(model, step.at(so_far).layout(), rows.ids[:, so_far]).t()
        worst = max(worst, _far(apart[:, now], together[:, now]), _far(short[:, now[so_far]], together[:, now]))
    return worst


@torch.no_grad()
def storage_dependence(model: ARMD, rows: Rows, seed: int = 0) -> float:
    """How much logits change, each at its token, when the same triples are stored in another order."""
    shuffle = torch.randperm(rows.ids.shape[1], generator=_seeded(seed))
    return _far(logits_of(model, rows.at(shuffle)), logits_of(model, rows)[:, shuffle])


@torch.no_grad()
def past_order_dependence(model: ARMD, rows: Rows) -> float:
    """How much the last row's logits depend on the order of its past. One token a block.

    Zero for a single layer alone: its content rows are embeddings, so the past is a set of (token, place).
    """
    assert model.config.num_layers == model.config.two_stream_layers == 1
    count = rows.ids.shape[1]
    index = torch.cat((torch.randperm(count - 1, generator=_seeded(1)), torch.tensor([count - 1])))
    another = Rows(rows.ids[:, index], rows.positions[:, index], rows.blocks)
    return _far(logits_of(model, another)[:, -1], logits_of(model, rows)[:, -1])


def decode_against_full(model: ARMD, order: Order, prompt: int = 0, batch: int = 2, seed: int = 0) -> float:
    """Log-probabilities that the cached decoder reports against those of one full pass over the same text."""
    ids = rows_of(left_to_right(prompt), seed=seed, vocab=model.config.vocab_size, batch=batch).ids
    holes = [None] * len(order.position)
    texts = [[*known, *holes] for known in ids.tolist()]
    turns = [turns_of(block_list(order))] * batch
    made = decode(model, *make_batch(texts, turns, BOS), Sampling(), BOS, range(seed, seed + batch))
    # The decoder reveals its prompt left to right before everything else.
    whole = behind_prompt(order, prompt)
    places = torch.from_numpy(whole.position).expand(batch, -1)
    first = torch.arange(1, prompt + 1)
    blocks = torch.cat((first, prompt + torch.from_numpy(order.block))).expand(batch, -1)
    rows = Rows(made.tokens.gather(1, places - 1), places, blocks)
    with torch.no_grad():
        nll = token_nll(model, rows.layout(), rows.ids).t()[:, prompt:]
    return _far(made.logprobs.gather(1, places[:, prompt:] - 1), -nll)


@torch.no_grad()
def total_probability(model: ARMD, order: Order) -> float:
    """Sum of p over all texts of the order's length."""
    vocab, length = model.config.vocab_size, len(order.position)
    texts = torch.cartesian_prod(*[torch.arange(vocab)] * length)
    places, blocks = (torch.from_numpy(part).expand(len(texts), -1) for part in (order.position, order.block))
    rows = Rows(texts.gather(1, places - 1), places, blocks)
    return token_nll(model, rows.layout(), rows.ids).sum(0).neg().exp().sum().item()


def _far(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    return (one - other).abs().max().item() if one.numel() else 0.0


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
