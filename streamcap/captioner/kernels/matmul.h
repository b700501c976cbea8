/* Matmul of activations with packed weights, layer norm, activation functions and the packing of rows. Compiled twice:
   with FLOATS, weights and activations are float32; without, weights are int8 and activations int16.

   NaN and infinity propagate. Code that tests for them reads the bits, because -ffinite-math-only lets the compiler
   assume that every float is finite.

   int8: one weight scale per output channel. Each row of activations is quantized with a scale of its own to integers
   of at most `limit`, the largest value for which a sum of `in` products fits 32 bits. That leaves 12 bits or more, and
   every sum is exact: all processors compute the same sums. Multiplying 16-bit pairs (vpmaddwd, or vpdpwssd with VNNI)
   cannot saturate; multiplying 8-bit pairs without VNNI can. Layers whose limit is MAX_BYTE have weights for which it
   does not: see byte_tiles.h.

   Weights are stored in the order in which they are read: panels of PANEL output channels, within a panel
   LAYOUT_STEP inputs at a time. This gives one sequential read of memory, reads each weight once for up to TILE rows,
   and needs no horizontal sum within a vector.

   Compiled by streamcap.captioner.kernels.build. */
#pragma once
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>
#include "vectors.h"

#define ROW_PAD (64 / (int)sizeof(Value)) /* padding between rows, so that they do not map to the same cache sets */
#define PREFETCH_BYTES 4096               /* distance of the weight prefetch */
#define MAX_SHARED_BYTES (512 << 10)      /* of a panel that all passes through another one prefetch into the L2 cache */
#define BLOCK_ROWS 204                    /* at most so many rows pass all panels together */
#define BLOCK_INPUTS 64                   /* float32: inputs of a panel that stay in the L1 cache while all rows pass */
#define UNROLL 4                          /* float32: inputs that one pass through the innermost loop takes */
#define MAX_BYTE 127                      /* up to this limit, activations fit signed bytes */
#define SMALL_BATCH_ROWS 4                /* up to this many rows, every thread packs all rows for itself */
#define RELU 3                            /* value of `kind` in `activate` */
#define LOCAL static __attribute__((unused)) /* each source file uses only some of these functions */

typedef struct {
    const Weight *qweight; /* (panels, in / LAYOUT_STEP, PANEL, LAYOUT_STEP) */
    const float *scales;   /* (panels, PANEL); not read with FLOATS */
    const float *bias;     /* (panels, PANEL) */
    const int32_t *offsets; /* (panels, PANEL); 128 * the sum of the channel's weights where limit <= MAX_BYTE */
    int32_t in, out, limit, unused;
} Linear;

#if !defined(FLOATS) && defined(__AVX2__) && !defined(__AVX512BW__) && !defined(__AVXVNNI__)
#define BYTE_TILES
#include "byte_tiles.h"
#endif

static inline int32_t bits(const float *x) {
    int32_t pattern;
    memcpy(&pattern, x, sizeof pattern);
    return pattern;
}

/* exp(x) as 2^(x / ln 2), with a polynomial of degree 6 for the fraction; relative error < 2e-7 for -87 < x < 88. */
static inline float fast_exp(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = (x > 88.0f ? 88.0f : x) * 1.44269504f;
    float rounded = (float)(int32_t)(x + (x < 0 ? -0.5f : 0.5f)), fraction = (x - rounded) * 0.693147181f;
    float y = 0.00833333333f + fraction * 0.00138888889f;
    y = 0.5f + fraction * (0.166666667f + fraction * (0.0416666667f + fraction * y));
    y = 1.0f + fraction * (1.0f + fraction * y);
    union { int32_t i; float f; } power = {.i = ((int32_t)rounded + 127) << 23};
    return y * power.f;
}

/* Abramowitz and Stegun 7.1.26, absolute error at most 1.5e-7. Unlike libm's erf, the compiler can vectorize it. */
static inline float fast_erf(float x) {
    float size = fabsf(x), t = 1.0f / (1.0f + 0.3275911f * size);
    float y = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    y = 1.0f - y * fast_exp(-size * size);
    return x < 0 ? -y : y;
}

LOCAL void activate(float *x, int count, int kind) {
    if (kind == 0)
        for (int i = 0; i < count; i++) { /* x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) */
            float u = 1.59576912f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
            x[i] = x[i] / (1.0f + fast_exp(-u));
        }
    else if (kind == 1)
        for (int i = 0; i < count; i++) x[i] = 0.5f * x[i] * (1.0f + fast_erf(x[i] * 0.707106781f));
    else if (kind == 2)
        for (int i = 0; i < count; i++) x[i] = x[i] / (1.0f + fast_exp(-1.702f * x[i])); /* CLIP's quick GELU */
    else
        for (int i = 0; i < count; i++) x[i] = 0.5f * (x[i] + fabsf(x[i])); /* ReLU that keeps NaN, unlike max(x, 0) */
}

LOCAL void layer_norm(const float *x, const float *weight, const float *shift, float epsilon, int width, float *out) {
    float sum = 0, square = 0;
    for (int i = 0; i < width; i++) sum += x[i];
    float mean = sum / width;
    for (int i = 0; i < width; i++) square += (x[i] - mean) * (x[i] - mean);
    float factor = 1.0f / sqrtf(square / width + epsilon);
    for (int i = 0; i < width; i++) out[i] = (x[i] - mean) * factor * weight[i] + shift[i];
}

#if defined(FLOATS)

/* Copy one row of activations to `out`; returns its scale, 1. */
LOCAL float pack_row(const float *x, int count, int limit, Value *out) {
    (void)limit;
    memcpy(out, x, count * sizeof *x);
    return 1.0f;
}

/* Copy row `row` of `total` to its place in `packed`: (blocks, total, BLOCK_INPUTS). What the tiles read while a block
   of weights is in the L1 cache lies side by side, in few pages. */
LOCAL void pack_in_blocks(const float *x, int count, int row, int total, Value *packed) {
    for (int k = 0; k < count; k += BLOCK_INPUTS) {
        Value *to = packed + (int64_t)k * total + (int64_t)row * BLOCK_INPUTS;
        if (count - k >= BLOCK_INPUTS)
            memcpy(to, x + k, BLOCK_INPUTS * sizeof *x);
        else
            memcpy(to, x + k, (count - k) * sizeof *x);
    }
}

#else

/* Quantize one row of activations to integers of at most `limit`; returns the row's scale. */
LOCAL float pack_row(const float *x, int count, int limit, Value *out) {
    union { float f; int32_t i; } highest = {.f = 1e-12f};
    for (int i = 0; i < count; i++) {
        int32_t size = bits(x + i) & 0x7fffffff; /* |x| as an integer: keeps the order, and NaN is above infinity */
        highest.i = size > highest.i ? size : highest.i;
    }
    float top = highest.f, factor = limit / top;
    for (int i = 0; i < count; i++) {
        float y = x[i] * factor;
        out[i] = (int16_t)(int32_t)(y + (y < 0 ? -0.5f : 0.5f));
    }
#if defined(BYTES)
    /* value = 256 * upper + lower, both signed bytes; of four inputs first the upper ones, then the lower ones. */
    for (int i = 0; i < count; i += 4) {
        int8_t bytes[8];
        for (int j = 0; j < 4; j++) {
            bytes[4 + j] = (int8_t)out[i + j];
            bytes[j] = (int8_t)((out[i + j] - bytes[4 + j]) / 256);
        }
        memcpy(out + i, bytes, sizeof bytes);
    }
#elif defined(BYTE_TILES)
    if (limit <= MAX_BYTE) to_bytes(out, count);
#endif
    return top / limit;
}

#endif
#define VECTORS (PANEL / GROUP)

/* What the passes through a panel, one for each tile and `vectors`, prefetch. Several passes: each a share of the next
   panel. If only the first one read memory, it would wait for it, and the others would leave it idle. One pass:
   PREFETCH_BYTES ahead, first in this panel, then in the next one. */
typedef struct {
    const char *next; /* where the next pass begins in the next panel */
    int64_t share;    /* bytes for each pass; 0: there is one pass, or the panel is too large */
} Ahead;

/* Matmul of `vectors` vectors of one panel with `rows` (1 to TILE) rows of x, both compile-time constants, scaled:
   out (rows, PANEL). With few rows, integer sums use several accumulators, so that consecutive instructions do not wait
   for each other. Floats are always summed in the same order: a row gives the same bits in every batch. */
static inline __attribute__((always_inline)) void tile(const Weight *qweight, Ahead *fetch, const Value *x,
                                                       int in, const int rows, const int vectors,
                                                       const float *x_scales, const float *scales, const float *bias,
                                                       float *out) {
#if defined(FLOATS)
    const int parts = 1;
#else
    const int parts = rows * vectors * 4 <= SUMS ? 4 : rows * vectors * 2 <= SUMS ? 2 : 1;
#endif
    Vector sum[TILE][VECTORS][4];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
#pragma GCC unroll 4
            for (int p = 0; p < parts; p++) sum[r][v][p] = zero();
    const int size = PANEL * sizeof(Weight);
    const int split = !fetch->share && in * size > PREFETCH_BYTES ? in - PREFETCH_BYTES / size : 0;
    const int64_t each = fetch->share ? (fetch->share * STEP + in - 1) / in : size * STEP;
    const char *next = fetch->next, *ahead = (const char *)qweight + PREFETCH_BYTES;
    fetch->next += fetch->share;
    for (int half = 0; half < 2; half++) {
        const int stop = half ? in : split;
        if (half) ahead = next;
        for (int k = half ? split : 0; k < stop; k += parts * STEP) {
#pragma GCC unroll 4
            for (int p = 0; p < parts; p++) {
                const int at = k + p * STEP;
#pragma GCC unroll 4
                for (int line = 0; line < STEP * size / 64; line++)
                    _mm_prefetch(ahead + 64 * line, _MM_HINT_T0);
                ahead += each;
                Vector weight[VECTORS];
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++)
                    weight[v] = load_weights(qweight + (int64_t)at * PANEL + v * LAYOUT_STEP * GROUP);
#pragma GCC unroll 16
                for (int r = 0; r < rows; r++) {
                    Vector value = broadcast(x + (int64_t)r * (in + ROW_PAD) + at);
#pragma GCC unroll 4
                    for (int v = 0; v < vectors; v++) sum[r][v][p] = multiply_add(sum[r][v][p], value, weight[v]);
                }
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            Vector all = sum[r][v][0];
#pragma GCC unroll 4
            for (int p = 1; p < parts; p++) all = add(all, sum[r][v][p]);
            store_scaled(all, x_scales[r], scales + v * GROUP, bias + v * GROUP, out + r * PANEL + v * GROUP);
        }
}

/* Vectors of a panel computed at once, so that the accumulators of n rows fit in registers. */
#define ACROSS(n) (n * VECTORS <= SUMS ? VECTORS : SUMS / TILE)
#define CASE(n) \
    case n: \
        for (int v = 0; v < VECTORS; v += ACROSS(n)) \
            tile(qweight + v * LAYOUT_STEP * GROUP, fetch, x, in, n, ACROSS(n), x_scales, scales + v * GROUP, \
                 bias + v * GROUP, out + v * GROUP); \
        break;

LOCAL void tiles(const Weight *qweight, Ahead *fetch, const Value *x, int in, int rows, const float *x_scales,
                 const float *scales, const float *bias, float *out) {
    switch (rows) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if TILE > 6
        CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
    }
}

/* One row of a panel's result, `columns` wide: written, or added if `residual`. */
static inline void put_row(const float *from, int columns, int residual, float *to) {
    if (residual)
        for (int j = 0; j < columns; j++) to[j] += from[j];
    else
        memcpy(to, from, columns * sizeof(float));
}

#if defined(FLOATS)
/* Adds `count` inputs, a multiple of UNROLL, of `rows` rows that are BLOCK_INPUTS apart to `sums` (rows, VECTORS), which
   begin at 0 where `first`. */
static inline __attribute__((always_inline)) void block_tile(const Weight *weights, const Value *x, int count,
                                                             const int rows, const int vectors, int first,
                                                             Vector *sums) {
    Vector sum[TILE][VECTORS];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sum[r][v] = first ? zero() : sums[r * VECTORS + v];
    for (int k = 0; k < count; k += UNROLL) {
#pragma GCC unroll 4
        for (int u = k; u < k + UNROLL; u++) {
            Vector weight[VECTORS];
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++)
                weight[v] = in_register(load_weights(weights + (int64_t)u * PANEL + v * GROUP));
#pragma GCC unroll 16
            for (int r = 0; r < rows; r++) {
                Vector value = broadcast(x + r * BLOCK_INPUTS + u);
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++) sum[r][v] = multiply_add(sum[r][v], value, weight[v]);
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sums[r * VECTORS + v] = sum[r][v];
}

#define BLOCK_CASE(n) \
    case n: \
        for (int v = 0; v < VECTORS; v += ACROSS(n)) \
            block_tile(weights + v * GROUP, x, count, n, ACROSS(n), first, sums + v); \
        break;

LOCAL void block_tiles(const Weight *weights, const Value *x, int count, int rows, int first, Vector *sums) {
    switch (rows) {
        BLOCK_CASE(1) BLOCK_CASE(2) BLOCK_CASE(3) BLOCK_CASE(4) BLOCK_CASE(5) BLOCK_CASE(6)
#if TILE > 6
        BLOCK_CASE(7) BLOCK_CASE(8) BLOCK_CASE(9) BLOCK_CASE(10) BLOCK_CASE(11) BLOCK_CASE(12)
#endif
    }
}

/* One panel of `linear` for the `rows` rows from `base` on, at most BLOCK_ROWS, of all `total` rows packed in blocks. A
   block of weights is read from the L1 cache by every tile; meanwhile each tile prefetches its share of the next block,
   as prefetches all at once would stall it. Sums go on from block to block: a row gives the same bits as in `tile`. */
LOCAL void blocked_panel_matmul(const Linear *linear, const Value *x, int total, int base, int rows, int panel,
                                const Weight *next, int residual, float *out) {
    const int in = linear->in, width = linear->out, start = panel * PANEL;
    const int columns = width - start < PANEL ? width - start : PANEL;
    const int64_t lines = (int64_t)BLOCK_INPUTS * PANEL * sizeof(Weight) / 64;
    const Weight *panel_weights = linear->qweight + (int64_t)start * in;
    Vector sums[BLOCK_ROWS * VECTORS];
    int size = (rows + TILE - 1) / TILE; /* number of tiles, then rows of each: all tiles about equal */
    size = (rows + size - 1) / size;
    for (int k = 0; k < in; k += BLOCK_INPUTS) {
        const Weight *weights = panel_weights + (int64_t)k * PANEL;
        const Value *block = x + (int64_t)k * total + (int64_t)base * BLOCK_INPUTS;
        const int count = in - k < BLOCK_INPUTS ? in - k : BLOCK_INPUTS;
        const char *ahead = (const char *)(k + BLOCK_INPUTS < in ? weights + BLOCK_INPUTS * PANEL : next);
        for (int r = 0; r < rows; r += size) {
            int tile_rows = rows - r < size ? rows - r : size;
            for (int64_t line = lines * r / rows; line < lines * (r + tile_rows) / rows; line++)
                _mm_prefetch(ahead + 64 * line, _MM_HINT_T1);
            block_tiles(weights, block + r * BLOCK_INPUTS, count, tile_rows, k == 0, sums + r * VECTORS);
        }
    }
    for (int r = 0; r < rows; r++) {
        float row[PANEL];
        for (int v = 0; v < VECTORS; v++)
            store_scaled(sums[r * VECTORS + v], 1.0f, NULL, linear->bias + start + v * GROUP, row + v * GROUP);
        put_row(row, columns, residual, out + (int64_t)(base + r) * width + start);
    }
}
#endif

/* One panel of `linear` for the `rows` rows from `base` on of all `total` packed rows. next: the panel to prefetch, of
   next_bytes. out: (total, linear->out), all rows; overwritten, or added to if `residual`. */
LOCAL void panel_matmul(const Linear *linear, const Value *x, const float *x_scales, int total, int base, int rows,
                        int panel, const Weight *next, int64_t next_bytes, int residual, float *out) {
#if defined(FLOATS)
    if (total > TILE) {
        for (int r = 0; r < rows; r += BLOCK_ROWS)
            blocked_panel_matmul(linear, x, total, base + r, rows - r < BLOCK_ROWS ? rows - r : BLOCK_ROWS, panel,
                                 next, residual, out);
        return;
    }
#endif
    (void)total, (void)next_bytes;
    int in = linear->in, width = linear->out, first = panel * PANEL;
    int columns = width - first < PANEL ? width - first : PANEL;
#if defined(BYTE_TILES)
    const int most = linear->limit <= MAX_BYTE ? BYTE_TILE : TILE;
#else
    const int most = TILE;
#endif
    int size = (rows + most - 1) / most; /* number of tiles, then rows of each: all tiles about equal */
    size = (rows + size - 1) / size;
    float sums[TILE * PANEL];
    const int passes = (rows + size - 1) / size * (VECTORS / ACROSS(size));
    Ahead fetch = {(const char *)next, passes > 1 && next_bytes <= MAX_SHARED_BYTES ? next_bytes / passes : 0};
    for (int r = base; r < base + rows; r += size) {
        int count = base + rows - r < size ? base + rows - r : size;
#if defined(BYTE_TILES)
        if (linear->limit <= MAX_BYTE)
            byte_tiles(linear->qweight + (int64_t)first * in, next, (const uint8_t *)(x + (int64_t)r * (in + ROW_PAD)),
                       (in + ROW_PAD) * (int64_t)sizeof *x, in, count, x_scales + r, linear->scales + first,
                       linear->bias + first, linear->offsets + first, sums);
        else
#endif
        tiles(linear->qweight + (int64_t)first * in, &fetch, x + (int64_t)r * (in + ROW_PAD), in, count, x_scales + r,
              linear->scales + first, linear->bias + first, sums);
        for (int i = 0; i < count; i++)
            put_row(sums + i * PANEL, columns, residual, out + (int64_t)(r + i) * width + first);
    }
}

/* All panels of `linear`, then the activation function if `activation` >= 0. Each thread claims panels one by one and
   prefetches its next panel while it computes; after the last one, its first panel of `next_linear`. Many rows pass in
   blocks, each through all panels, as the rows of a block stay in the caches. Ends with a barrier. next_unit: a
   counter that starts at 0, one for each call. */
LOCAL void matmul(const Linear *linear, const Linear *next_linear, const Value *x, const float *x_scales, int rows,
                  int residual, int activation, int32_t *next_unit, float *out) {
    int panels = (linear->out + PANEL - 1) / PANEL, me = omp_get_thread_num(), threads = omp_get_num_threads();
    int blocks = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS, size = (rows + blocks - 1) / blocks; /* all about equal */
    int units = panels * blocks;
    for (int unit = me, after; unit < units; unit = after) {
        after = threads + __atomic_fetch_add(next_unit, 1, __ATOMIC_RELAXED);
        const Weight *next = after < units ? linear->qweight + (int64_t)(after % panels) * PANEL * linear->in
                           : next_linear   ? next_linear->qweight + (int64_t)me * PANEL * next_linear->in
                                           : linear->qweight;
        int next_in = after >= units && next_linear ? next_linear->in : linear->in;
        int64_t next_bytes = (int64_t)next_in * PANEL * (int64_t)sizeof *next;
        int base = unit / panels * size, here = rows - base < size ? rows - base : size;
        int p = unit % panels, first = p * PANEL;
        int last = first + PANEL < linear->out ? first + PANEL : linear->out;
        panel_matmul(linear, x, x_scales, rows, base, here, p, next, next_bytes, residual, out);
        if (activation >= 0)
            for (int r = base; r < base + here; r++)
                activate(out + (int64_t)r * linear->out + first, last - first, activation);
    }
#pragma omp barrier
}

/* Row `row` of `total`, `x` being the first one; returns its scale. */
LOCAL float normalize_and_pack_row(const float *x, int row, int total, int width, const float *norm,
                                   const float *shift, float epsilon, int limit, Value *packed) {
    float normalized[width];
    const float *from = x + (int64_t)row * width;
    if (norm) {
        layer_norm(from, norm, shift, epsilon, width, normalized);
        from = normalized;
    }
#if defined(FLOATS)
    if (total > TILE) {
        pack_in_blocks(from, width, row, total, packed);
        return 1.0f;
    }
#endif
    (void)total;
    return pack_row(from, width, limit, packed + (int64_t)row * (width + ROW_PAD));
}

/* The input of a matmul: `count` rows of x, layer-normed if `norm` is not NULL, then packed. With few rows every thread
   packs all rows for itself, which costs less than a barrier. */
LOCAL void normalize_and_pack(const float *x, int count, int width, const float *norm, const float *shift,
                              float epsilon, int limit, Value *packed, float *scales) {
    if (count <= SMALL_BATCH_ROWS) {
        for (int m = 0; m < count; m++)
            scales[m] = normalize_and_pack_row(x, m, count, width, norm, shift, epsilon, limit, packed);
        return;
    }
#pragma omp for schedule(static)
    for (int m = 0; m < count; m++)
        scales[m] = normalize_and_pack_row(x, m, count, width, norm, shift, epsilon, limit, packed);
}
