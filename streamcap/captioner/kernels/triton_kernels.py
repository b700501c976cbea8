"""Triton kernels of one GPT-2 decode pass over few positions, for `fused_step`. Importable without Triton.

A pass has Q queries, at most 16: R rows of `steps` positions each. Query q belongs to row q // steps and writes the
cache position lengths[row] + q % steps. Between kernels the residual stream is float32; other activations have the
weights' type. Sums are float32. Weights are (outputs, inputs), as in `nn.Linear`: each program reads whole rows.

TILE is the number of queries that a program computes: 1, or 16 for the tensor cores' matmul, whose other rows are zero.
Every load and store is masked, and positions are limited to the cache's, so that no input can reach foreign memory.
"""

from __future__ import annotations

try:
    import triton
    import triton.language as tl
except ImportError:  # `fused_step` imports this module only where Triton is installed
    triton = tl = None

jit = (lambda function=None, **_: function or (lambda kernel: kernel)) if triton is None else triton.jit


@jit
def _load_weight(weight, output, start, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, BLOCK_K: tl.constexpr):
    """The inputs [start, start + BLOCK_K) of the outputs `output` (N,): (N, BLOCK_K), with zeros beyond the weight."""
    column = start + tl.arange(0, BLOCK_K)
    inside = (output < OUTPUTS)[:, None] & (column < INPUTS)[None, :]
    return tl.load(weight + output.to(tl.int64)[:, None] * INPUTS + column[None, :], mask=inside, other=0.0)


@jit
def _norm_linear(
    x, gamma, beta, weight, output, queries,
    WIDTH: tl.constexpr, OUTPUTS: tl.constexpr, EPSILON: tl.constexpr,
    TILE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The layer norm of x (Q, WIDTH), times the weights of the outputs `output` (BLOCK_N,): (TILE, BLOCK_N)."""
    if TILE == 1:
        out = _norm_linear_one(x, gamma, beta, weight, output, WIDTH, OUTPUTS, EPSILON, BLOCK_K)
    else:
        out = _norm_linear_tile(
            x, gamma, beta, weight, output, queries, WIDTH, OUTPUTS, EPSILON, TILE, BLOCK_N, BLOCK_K
        )
    return out


@jit
def _norm_linear_one(
    x, gamma, beta, weight, output,
    WIDTH: tl.constexpr, OUTPUTS: tl.constexpr, EPSILON: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """`_norm_linear` for one query, with BLOCK_K at least WIDTH: the weight is read while the norm is computed."""
    tile = _load_weight(weight, output, 0, WIDTH, OUTPUTS, BLOCK_K)
    column = tl.arange(0, BLOCK_K)
    inside = column < WIDTH
    value = tl.load(x + column, mask=inside, other=0.0)
    distance = tl.where(inside, value - tl.sum(value, axis=0) / WIDTH, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(distance * distance, axis=0) / WIDTH + EPSILON)
    factor = tl.load(gamma + column, mask=inside, other=0.0).to(tl.float32)
    offset = tl.load(beta + column, mask=inside, other=0.0).to(tl.float32)
    normed = (distance * scale * factor + offset).to(tile.dtype).to(tl.float32)
    return tl.sum(normed[None, :] * tile.to(tl.float32), axis=1)[None, :]


@jit
def _norm_linear_tile(
    x, gamma, beta, weight, output, queries,
    WIDTH: tl.constexpr, OUTPUTS: tl.constexpr, EPSILON: tl.constexpr,
    TILE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """`_norm_linear` for up to TILE queries."""
    query = tl.arange(0, TILE)
    block = tl.arange(0, BLOCK_K)
    rows = x + query[:, None] * WIDTH
    known = (query < queries)[:, None]
    total = tl.zeros((TILE,), tl.float32)
    for start in range(0, WIDTH, BLOCK_K):
        column = (start + block)[None, :]
        total += tl.sum(tl.load(rows + column, mask=known & (column < WIDTH), other=0.0), axis=1)
    mean = (total / WIDTH)[:, None]
    squares = tl.zeros((TILE,), tl.float32)
    for start in range(0, WIDTH, BLOCK_K):
        column = (start + block)[None, :]
        value = tl.load(rows + column, mask=known & (column < WIDTH), other=0.0)
        distance = tl.where(column < WIDTH, value - mean, 0.0)
        squares += tl.sum(distance * distance, axis=1)
    scale = (1.0 / tl.sqrt(squares / WIDTH + EPSILON))[:, None]
    out = tl.zeros((TILE, BLOCK_N), tl.float32)
    for start in range(0, WIDTH, BLOCK_K):
        column = (start + block)[None, :]
        factor = tl.load(gamma + column, mask=column < WIDTH, other=0.0).to(tl.float32)
        offset = tl.load(beta + column, mask=column < WIDTH, other=0.0).to(tl.float32)
        value = tl.load(rows + column, mask=known & (column < WIDTH), other=0.0)
        tile = _load_weight(weight, output, start, WIDTH, OUTPUTS, BLOCK_K)
        normed = ((value - mean) * scale * factor + offset).to(tile.dtype)
        out = tl.dot(normed, tl.trans(tile), out, input_precision="ieee")  # float32 is not rounded to TF32
    return out


@jit(do_not_specialize=["steps"])
def embed(tokens, lengths, wte, wpe, x, position_weight, steps, VOCABULARY: tl.constexpr, POSITIONS: tl.constexpr,
          WIDTH: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """x (Q, WIDTH) = wte[token] + position_weight · wpe[position]. Grid (Q,)."""
    query = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    token = tl.minimum(tl.maximum(tl.load(tokens + query), 0), VOCABULARY - 1)
    # Guesses may lie beyond GPT-2's last position; they are then not accepted.
    position = tl.minimum(tl.load(lengths + query // steps) + query % steps, POSITIONS - 1)
    meaning = tl.load(wte + token * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    place = tl.load(wpe + position * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(x + query * WIDTH + column, meaning + position_weight * place, mask=inside)


@jit(do_not_specialize=["queries", "steps", "capacity", "row_stride"])
def norm_qkv(
    x, gamma, beta, weight, bias, q, keys, values, lengths, queries, steps, capacity, row_stride,
    WIDTH: tl.constexpr, HEAD: tl.constexpr, EPSILON: tl.constexpr,
    TILE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Norm and matmul: queries to q (Q, WIDTH), keys and values to their places in one layer's cache.

    keys, values: (rows, heads, capacity, HEAD), of which a row is `row_stride` numbers. Grid (3 · WIDTH / BLOCK_N,).
    """
    output = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = output < 3 * WIDTH
    out = _norm_linear(x, gamma, beta, weight, output, queries, WIDTH, 3 * WIDTH, EPSILON, TILE, BLOCK_N, BLOCK_K)
    out += tl.load(bias + output, mask=inside, other=0.0).to(tl.float32)[None, :]
    query = tl.arange(0, TILE)
    row = query // steps
    position = tl.load(lengths + row, mask=query < queries, other=0) + query % steps
    feature = output % WIDTH
    known = (query < queries)[:, None] & inside[None, :]
    tl.store(q + query[:, None] * WIDTH + feature[None, :], out, mask=known & (output < WIDTH)[None, :])
    where = row.to(tl.int64)[:, None] * row_stride + position[:, None] * HEAD + (feature % HEAD)[None, :]
    where += (feature // HEAD)[None, :] * capacity * HEAD
    known = known & ((position >= 0) & (position < capacity))[:, None]
    tl.store(keys + where, out, mask=known & ((output >= WIDTH) & (output < 2 * WIDTH))[None, :])
    tl.store(values + where, out, mask=known & (output >= 2 * WIDTH)[None, :])


@jit(do_not_specialize=["steps", "capacity", "row_stride"])
def attend(
    q, keys, values, lengths, out, steps, capacity, row_stride, scale,
    WIDTH: tl.constexpr, HEAD: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Attention of each query to the cache positions up to its own, in float32, with a running softmax.

    out: (Q, WIDTH). Grid (Q, heads).
    """
    query = tl.program_id(0)
    head = tl.program_id(1)
    row = query // steps
    stop = tl.minimum(tl.load(lengths + row) + query % steps + 1, capacity)
    feature = tl.arange(0, HEAD)
    vector = tl.load(q + query * WIDTH + head * HEAD + feature).to(tl.float32) * scale
    begin = row.to(tl.int64) * row_stride + head * capacity * HEAD
    peak = tl.full((1,), float("-inf"), tl.float32)
    weights = tl.zeros((1,), tl.float32)
    mixed = tl.zeros((HEAD,), tl.float32)
    for start in range(0, stop, BLOCK_P):
        position = start + tl.arange(0, BLOCK_P)
        inside = position < stop
        where = begin + position[:, None] * HEAD + feature[None, :]
        key = tl.load(keys + where, mask=inside[:, None], other=0.0).to(tl.float32)
        value = tl.load(values + where, mask=inside[:, None], other=0.0).to(tl.float32)
        score = tl.where(inside, tl.sum(key * vector[None, :], axis=1), float("-inf"))
        higher = tl.maximum(peak, tl.max(score, axis=0))
        shrink = tl.exp(peak - higher)
        weight = tl.exp(score - higher)
        mixed = mixed * shrink + tl.sum(weight[:, None] * value, axis=0)
        weights = weights * shrink + tl.sum(weight, axis=0)
        peak = higher
    tl.store(out + query * WIDTH + head * HEAD + feature, mixed / weights)


@jit(do_not_specialize=["queries"])
def linear_residual(
    inputs, weight, bias, x, queries, INPUTS: tl.constexpr, WIDTH: tl.constexpr,
    TILE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """x (Q, WIDTH) += inputs (Q, INPUTS) times the weight, + bias. Grid (WIDTH / BLOCK_N,)."""
    query = tl.arange(0, TILE)
    block = tl.arange(0, BLOCK_K)
    output = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    if TILE == 1:
        products = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
        for start in range(0, INPUTS, BLOCK_K):
            tile = _load_weight(weight, output, start, INPUTS, WIDTH, BLOCK_K)
            value = tl.load(inputs + start + block, mask=start + block < INPUTS, other=0.0)
            products += value.to(tl.float32)[None, :] * tile.to(tl.float32)
        total = tl.sum(products, axis=1)[None, :]
    else:
        total = tl.zeros((TILE, BLOCK_N), tl.float32)
        for start in range(0, INPUTS, BLOCK_K):
            tile = _load_weight(weight, output, start, INPUTS, WIDTH, BLOCK_K)
            column = (start + block)[None, :]
            inside = (query < queries)[:, None] & (column < INPUTS)
            value = tl.load(inputs + query[:, None] * INPUTS + column, mask=inside, other=0.0)
            total = tl.dot(value, tl.trans(tile), total, input_precision="ieee")
    total += tl.load(bias + output, mask=output < WIDTH, other=0.0).to(tl.float32)[None, :]
    inside = (query < queries)[:, None] & (output < WIDTH)[None, :]
    where = x + query[:, None] * WIDTH + output[None, :]
    tl.store(where, tl.load(where, mask=inside, other=0.0) + total, mask=inside)


@jit(do_not_specialize=["queries"])
def norm_gelu(
    x, gamma, beta, weight, bias, out, queries,
    WIDTH: tl.constexpr, INNER: tl.constexpr, EPSILON: tl.constexpr,
    TILE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Norm, matmul and GELU in its tanh form: out (Q, INNER). Grid (INNER / BLOCK_N,)."""
    output = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    total = _norm_linear(x, gamma, beta, weight, output, queries, WIDTH, INNER, EPSILON, TILE, BLOCK_N, BLOCK_K)
    total += tl.load(bias + output, mask=output < INNER, other=0.0).to(tl.float32)[None, :]
    # 0.5 · (1 + tanh(u)) is sigmoid(2 u).
    total *= tl.sigmoid(1.5957691216057308 * (total + 0.044715 * total * total * total))
    query = tl.arange(0, TILE)
    inside = (query < queries)[:, None] & (output < INNER)[None, :]
    tl.store(out + query[:, None] * INNER + output[None, :], total, mask=inside)


@jit(do_not_specialize=["queries"])
def norm_logits(
    x, gamma, beta, weight, logits, best, best_token, weights, queries,
    WIDTH: tl.constexpr, VOCABULARY: tl.constexpr, EPSILON: tl.constexpr,
    TILE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The last norm and the logits (Q, VOCABULARY), float32, and for each block of them what `choose` needs.

    best, best_token, weights: (Q, blocks): the largest logit, its token, and the sum of the exponentials beside it.
    Grid (blocks,).
    """
    block = tl.program_id(0)
    blocks = tl.num_programs(0)
    token = block * BLOCK_N + tl.arange(0, BLOCK_N)
    known = token < VOCABULARY
    query = tl.arange(0, TILE)
    is_query = query < queries
    out = _norm_linear(x, gamma, beta, weight, token, queries, WIDTH, VOCABULARY, EPSILON, TILE, BLOCK_N, BLOCK_K)
    inside = is_query[:, None] & known[None, :]
    tl.store(logits + query[:, None] * VOCABULARY + token[None, :], out, mask=inside)
    out = tl.where(known[None, :], out, float("-inf"))
    highest = tl.max(out, axis=1)
    first = tl.min(tl.where(out == highest[:, None], token[None, :], VOCABULARY), axis=1)
    where = query * blocks + block
    tl.store(best + where, highest, mask=is_query)
    tl.store(best_token + where, first, mask=is_query)
    tl.store(weights + where, tl.sum(tl.exp(out - highest[:, None]), axis=1), mask=is_query)


@jit(do_not_specialize=["blocks"])
def choose(best, best_token, weights, chosen, scores, blocks, VOCABULARY: tl.constexpr, BLOCK: tl.constexpr):
    """The first token with the largest logit, int64 (Q,), and its log-probability, float64 (Q,). Grid (Q,)."""
    query = tl.program_id(0)
    block = tl.arange(0, BLOCK)
    inside = block < blocks
    where = query * blocks + block
    most = tl.load(best + where, mask=inside, other=float("-inf"))
    token = tl.load(best_token + where, mask=inside, other=VOCABULARY)
    top = tl.max(most, axis=0)
    # Where all is NaN no block matches: the token must still be one.
    first = tl.minimum(tl.min(tl.where(most == top, token, VOCABULARY), axis=0), VOCABULARY - 1)
    total = tl.sum(tl.load(weights + where, mask=inside, other=0.0) * tl.exp(most - top), axis=0)
    tl.store(chosen + query, first.to(tl.int64))
    tl.store(scores + query, -tl.log(total).to(tl.float64))
