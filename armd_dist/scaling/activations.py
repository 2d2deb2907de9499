"""What one micro-batch keeps for the backward pass, in bytes on one process, derived from the code of `model/`.

Counted as on CUDA: the flash kernels keep queries, keys, values, their result and one fp32 number for each row and head
(FlexAttention does the same); norms keep their input and fp32 statistics; dropout keeps a mask of bytes. Residual sums
keep nothing. The tests hold this against autograd's saved tensors.
"""

from dataclasses import dataclass, replace

from armd_dist.model.config import ModelConfig
from armd_dist.run import Run

FP32 = 4


@dataclass(frozen=True)
class Kept:
    """Layer `number`, from 0, in bytes. kept: for the backward pass, everything; selective: all but results of norms
    and of the MLP's activation; boundary: its inputs alone, which is what stays when it is recomputed; work: gradients
    that live at once while its MLP goes backward."""

    number: int
    kind: str
    kept: int
    selective: int
    boundary: int
    work: int


@dataclass(frozen=True)
class _Rows:
    """Rows of a layer in one micro-batch. attending: they query and go through the MLP; keys: they are looked at;
    inputs: the layer reads them; normed: attention's linear layers read them; copied: of these, copies of norms'
    results."""

    kind: str
    attending: int
    keys: int
    inputs: int
    normed: int
    copied: int = 0


def kept_by_layers(run: Run) -> list[Kept]:
    """Every layer of the network, from the bottom."""
    return [_layer(run, number, rows) for number, rows in enumerate(_stack(run))]


def kept_by_order_heads(run: Run) -> list[Kept]:
    """The heads of a learned order, each a layer and an MLP: of the text, and of what two maskings leave of it."""
    if not run.model.learned_order:
        return []
    model, size, twice = run.model, element_size(run), _tokens(run)
    found = []
    for number, (name, rows) in enumerate((("head of the text", twice // 2), ("head of masked texts", twice))):
        layer = _layer(run, model.num_layers + number, _Rows(name, rows, rows, rows, rows))
        # Of the norm and the MLP inputs and results. The last norm of the network has what the second head reads.
        more = size * rows * model.hidden_size * (4 - number) + FP32 * _statistics(model) * rows
        more += 0 if model.position_embedding == "learned" else size * rows * model.head_dim
        cheap = 2 * size * rows * model.hidden_size
        found.append(replace(layer, kept=layer.kept + more, selective=layer.selective + more - cheap))
    return found


def kept_by_embedding(run: Run) -> int:
    """Ids, the query context's inputs, rotary angles, dropout of both streams."""
    model, tokens, size = run.model, _tokens(run), element_size(run)
    if model.network == "denoiser":
        rows = _stack(run)[0].attending
        return rows * (2 * 8 + 1) + kept_by_angles(run) + (rows * model.hidden_size if model.hidden_dropout else 0)
    shared = run.parallel.tensor if run.parallel.sequence else 1
    ids, kept = 8 * tokens * 3, 0
    if model.query_context in ("neighbours", "both"):
        ids += 8 * tokens * 4
        kept += 2 * tokens * model.hidden_size // shared
    if model.query_context in ("linear", "both"):
        # Weights, what of them is visible, and their shares, of every row for every key.
        kept += 3 * tokens * run.data.sequence_length + 6 * tokens * model.hidden_size
    masks = 2 * tokens * model.hidden_size // shared if model.hidden_dropout else 0
    return ids + size * kept + kept_by_angles(run) + masks


def kept_by_angles(run: Run) -> int:
    """Rotary cosines and sines, half a head each, which every stage of a pipeline makes for itself."""
    if run.model.position_embedding == "learned":
        return 0
    # Of the content, the query, and both joined.
    rows = _stack(run)[0].attending if run.model.network == "denoiser" else 4 * _tokens(run)
    return element_size(run) * rows * run.model.head_dim


def kept_by_head(run: Run) -> int:
    """The last norm's input and result; the logits are counted apart."""
    top = _stack(run)[-1]
    read = top.attending if run.model.network == "denoiser" else _tokens(run)
    shared = run.parallel.tensor if run.parallel.sequence else 1
    gathered = read if run.parallel.sequence else 0  # the logits need all rows again
    whole = element_size(run) * (top.attending + read) * run.model.hidden_size + FP32 * _statistics(run.model) * read
    return whole // shared + element_size(run) * gathered * run.model.hidden_size


def logits_peak(run: Run) -> int:
    """Logits with their softmax and gradient where most of them live at once, in the forward or the backward pass.

    The loss works in fp32: in bf16 the logits stand beside their fp32 copy, whose place the softmax and then the
    gradient take. In fp32 padding the vocabulary copies them. The z-loss holds three more fp32 tensors.
    """
    model = run.model
    elements = _tokens(run) * model.padded_vocab_size // run.parallel.tensor
    padded = model.padded_vocab_size > model.vocab_size
    if run.training.precision == "bf16":
        each = 2 + FP32 + (3 * FP32 if run.training.z_loss else 0)
    else:
        each = FP32 * (2 if padded else 1) + (2 * FP32 if run.training.z_loss else 0)
    return elements * each


def element_size(run: Run) -> int:
    """Bytes of a weight or a hidden state's element."""
    return 2 if run.training.precision == "bf16" else FP32


def rows_through(run: Run) -> list[tuple[int, int]]:
    """For every layer the attending rows and the keys of one micro-batch."""
    return [(rows.attending, rows.keys) for rows in _stack(run)]


def _tokens(run: Run) -> int:
    """Predicted tokens of one micro-batch: rows of one stream."""
    return _texts(run) * run.data.sequence_length


def _texts(run: Run) -> int:
    """A learned order masks each of them twice."""
    return run.training.micro_batch_size * (2 if run.model.learned_order else 1)


def _stack(run: Run) -> list[_Rows]:
    model, tokens = run.model, _tokens(run)
    if model.network == "denoiser":
        rows = tokens + _texts(run) * _clean_rows(run)
        last = _Rows("last of a denoiser", tokens, rows, rows, rows)
        return [_Rows("denoiser", rows, rows, rows, rows)] * (model.num_layers - 1) + [last]
    assert model.two_stream_layers is not None, "ModelConfig fills it"
    # Both streams, joined; keys and values read a contiguous copy of the content's part.
    both = _Rows("two streams", 2 * tokens, tokens, 2 * tokens, 3 * tokens, copied=tokens)
    last = _Rows("last of two streams", tokens, tokens, 2 * tokens, 2 * tokens)
    upper = _Rows("upper", tokens, tokens, tokens, tokens)
    below = [both] * (model.two_stream_layers - 1) + [last] if model.two_stream_layers else []
    return below + [upper] * (model.num_layers - model.two_stream_layers)


def _layer(run: Run, number: int, rows: _Rows) -> Kept:
    model, size, tensor = run.model, element_size(run), run.parallel.tensor
    assert model.ffn_hidden_size is not None, "ModelConfig fills it"
    hidden, wide = model.hidden_size, model.ffn_hidden_size
    # Input of the first norm and of attention's matrices, then of the second norm and of the MLP.
    whole = (rows.inputs + rows.normed + 2 * rows.attending) * hidden
    in_mlp = 4 if model.activation == "swiglu" else 2
    split = _attention(model, rows) + in_mlp * rows.attending * wide
    per_row = FP32 * _statistics(model) * (rows.inputs + rows.attending)
    per_head = FP32 * rows.attending * model.num_attention_heads
    if model.qk_norm:
        per_head += FP32 * (rows.attending * model.num_attention_heads + rows.keys * _key_heads(model))
    masks = 2 * rows.attending * hidden if model.hidden_dropout else 0
    shared = tensor if run.parallel.sequence else 1
    kept = (size * whole + per_row + masks) // shared + (size * split + per_head) // tensor + _dense_mask(run, rows)
    cheap = (rows.normed - rows.copied + rows.attending) * hidden
    selective = kept - size * (cheap // shared + rows.attending * wide // tensor + _normed_heads(model, rows) // tensor)
    work = size * rows.attending * (3 * hidden + in_mlp * wide // tensor)
    return Kept(number, rows.kind, kept, selective, size * rows.inputs * hidden // shared, work)


def _normed_heads(model: ModelConfig, rows: _Rows) -> int:
    """Elements of heads that attention keeps as their norm made them: neither turned nor copied."""
    if not model.qk_norm or model.position_embedding != "learned":
        return 0
    grouped = _key_heads(model) < model.num_attention_heads
    return (rows.attending + (0 if grouped else rows.keys)) * model.hidden_size


def _attention(model: ModelConfig, rows: _Rows) -> int:
    """Elements of queries, keys, values and the result."""
    hidden, key_values = model.hidden_size, 2 * rows.keys * _key_heads(model) * model.head_dim
    grouped = _key_heads(model) < model.num_attention_heads
    queries = rows.attending * hidden * (2 if model.qk_norm else 1)  # the norm keeps them as they were, too
    if grouped:
        # Keys and values are copied for each query head.
        keys = 2 * rows.keys * hidden + (key_values if model.qk_norm else 0)
    else:
        turned = model.qk_norm or model.position_embedding != "learned"
        keys = key_values + (key_values // 2 if turned else 0)
    # Two streams' results, or those of clean rows and the text's, are joined into one tensor.
    joined = rows.attending > rows.keys or rows.kind == "denoiser"
    results = rows.attending * hidden * (2 if joined else 1)
    return queries + keys + results


def _dense_mask(run: Run, rows: _Rows) -> int:
    """A denoiser in windows, or within documents, hands its attention calls dense masks, kept as numbers to add to the
    scores; the same for all texts, unless each has documents of its own."""
    clean, length, apart = _clean_rows(run), run.data.sequence_length, run.data.within_document
    if run.model.network != "denoiser" or (clean == 1 and not apart):
        return 0
    of_clean = clean**2 if rows.kind == "denoiser" else 0
    masks = run.training.micro_batch_size if apart else 1
    return element_size(run) * masks * (of_clean + length * (clean + length))


def _clean_rows(run: Run) -> int:
    """A denoiser's rows of one text that know their token: BOS, and with windows all of them but the last."""
    length = run.data.sequence_length
    window = run.orders.block_length or length
    return 1 + (length - 1) // window * window


def _statistics(model: ModelConfig) -> int:
    """Numbers that a norm keeps for each row: a mean as well in layer norm."""
    return 2 if model.normalization == "layernorm" else 1


def _key_heads(model: ModelConfig) -> int:
    assert model.num_key_value_heads is not None, "ModelConfig fills it"
    return model.num_key_value_heads
