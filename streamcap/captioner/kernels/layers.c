/* Fused pre-norm transformer layers in one call (GPT-2 with a KV cache, or an encoder), and a single linear layer. */
#include "matmul.h"

#define CACHE_LINE_FLOATS 16 /* floats in a cache line */
#define ATTN_LANES 64        /* floats summed side by side in encoder attention */

typedef struct {
    const float *norm_1, *shift_1; /* (width) */
    Linear qkv, proj;
    const float *norm_2, *shift_2;
    Linear fc1, fc2;
} Layer;

typedef struct {
    const Layer *layers;
    const Linear *after; /* the linear layer that runs after these layers, to prefetch; or NULL */
    float epsilon;
    int32_t count, heads, activation;
} FusedLayers;

typedef struct {
    float *keys, *values;         /* KV cache (layers, rows, heads, positions, depth); NULL: an encoder, no mask */
    int64_t layer, row, head;     /* strides of the cache in floats; positions are contiguous */
    const int64_t *positions;     /* (rows): first position that each row writes; NULL: `start` for all rows */
    const int64_t *output_steps;  /* (rows, num_outputs): the steps to return, ascending; NULL: all steps */
    int32_t rows, steps, start, num_outputs;
} AttentionArgs;

static int all_finite(const float *x, int count) {
    int32_t not_finite = 0;
    for (int i = 0; i < count; i++) not_finite |= (bits(x + i) & 0x7f800000) == 0x7f800000;
    return !not_finite;
}

static void fill_with_nan(float *x, int count) {
    const int32_t nan = 0x7fc00000;
    for (int i = 0; i < count; i++) memcpy(x + i, &nan, sizeof nan);
}

/* Causal attention of one row and one head. Writes the keys and values of all steps from position `first` on, then
   computes the `num_outputs` steps in `output_steps`, or all steps if it is NULL. qkv: (steps, 3 width). */
static void attention_cached(const float *qkv, float *keys, float *values, int first, int steps,
                             const int64_t *output_steps, int num_outputs, int width, int depth, float *weights,
                             float *out) {
    float factor = 1.0f / sqrtf((float)depth);
    for (int i = 0; i < first * depth; i += CACHE_LINE_FLOATS) _mm_prefetch((const char *)(values + i), _MM_HINT_T0);
    for (int s = 0; s < steps; s++) {
        const float *from = qkv + (int64_t)s * 3 * width;
        memcpy(keys + (int64_t)(first + s) * depth, from + width, depth * sizeof(float));
        memcpy(values + (int64_t)(first + s) * depth, from + 2 * width, depth * sizeof(float));
    }
    for (int i = 0; i < num_outputs; i++) {
        int s = output_steps ? (int)output_steps[i] : i;
        const float *query = qkv + (int64_t)s * 3 * width;
        int seen = first + s + 1;
        float top = -INFINITY, sum = 0;
        for (int j = 0; j < seen; j++) {
            float dot = 0;
            for (int d = 0; d < depth; d++) dot += query[d] * keys[(int64_t)j * depth + d];
            weights[j] = dot * factor;
            top = weights[j] > top ? weights[j] : top;
        }
        float *to = out + (int64_t)s * width;
        if (!all_finite(weights, seen)) {
            fill_with_nan(to, depth);
            continue;
        }
        for (int j = 0; j < seen; j++) {
            weights[j] = fast_exp(weights[j] - top);
            sum += weights[j];
        }
        for (int d = 0; d < depth; d++) to[d] = 0;
        for (int j = 0; j < seen; j++)
            for (int d = 0; d < depth; d++) to[d] += weights[j] / sum * values[(int64_t)j * depth + d];
    }
}

typedef float Lanes __attribute__((vector_size(GROUP * sizeof(float)), aligned(4), may_alias));

/* out: ATTN_LANES floats, the weighted sum of `count` rows that are `stride` floats apart. The sums stay in registers:
   vectors wider than those of the machine would go through memory. */
static inline void weighted_sum(const float *weights, const float *rows, int64_t stride, int count, float *out) {
    Lanes sums[ATTN_LANES / GROUP] = {0};
    for (int i = 0; i < count; i++) {
        const Lanes *row = (const Lanes *)(rows + i * stride);
#pragma GCC unroll 8
        for (int l = 0; l < ATTN_LANES / GROUP; l++) sums[l] += weights[i] * row[l];
    }
#pragma GCC unroll 8
    for (int l = 0; l < ATTN_LANES / GROUP; l++) ((Lanes *)out)[l] = sums[l];
}

static inline int64_t round_to_lanes(int count) { return (count + ATTN_LANES - 1) / ATTN_LANES * ATTN_LANES; }

/* Unmasked attention of one row and one head. qkv: (steps, 3 width). scratch: (depth + 1) * across + (steps + 1) * deep
   floats, where `across` and `deep` are steps and depth rounded up to multiples of ATTN_LANES. */
static void attention_full(const float *qkv, int steps, const int64_t *output_steps, int num_outputs, int width,
                           int depth, float *scratch, float *out) {
    float factor = 1.0f / sqrtf((float)depth);
    int64_t across = round_to_lanes(steps), deep = round_to_lanes(depth);
    float *keys = scratch, *values = keys + depth * across; /* keys: (depth, steps), to avoid horizontal sums */
    float *weights = values + steps * deep, *mixed = weights + across;
    memset(scratch, 0, (depth * across + steps * deep) * sizeof *scratch);
    for (int j = 0; j < steps; j++) {
        const float *key = qkv + (int64_t)j * 3 * width + width;
        for (int d = 0; d < depth; d++) keys[d * across + j] = key[d] * factor;
        memcpy(values + j * deep, key + width, depth * sizeof(float));
    }
    for (int i = 0; i < num_outputs; i++) {
        int s = output_steps ? (int)output_steps[i] : i;
        float top = -INFINITY, sum = 0;
        for (int64_t j = 0; j < across; j += ATTN_LANES)
            weighted_sum(qkv + (int64_t)s * 3 * width, keys + j, across, depth, weights + j);
        float *to = out + (int64_t)s * width;
        if (!all_finite(weights, steps)) {
            fill_with_nan(to, depth);
            continue;
        }
        for (int j = 0; j < steps; j++) top = weights[j] > top ? weights[j] : top;
        for (int j = 0; j < steps; j++) {
            weights[j] = fast_exp(weights[j] - top);
            sum += weights[j];
        }
        for (int64_t d = 0; d < deep; d += ATTN_LANES) weighted_sum(weights, values + d, deep, steps, mixed + d);
        for (int d = 0; d < depth; d++) to[d] = mixed[d] / sum;
    }
}

/* x: (rows * steps, width), in and out; with `output_steps`, its first rows * num_outputs rows hold the result.
   floats: scratch of rows * steps * (3 width + inner + threads) + threads * own.
   own: floats per thread for attention: the positions of the cache, or the scratch of attention_full.
   values: scratch of (inner + ROW_PAD) * n, n being rows * steps or threads * min(rows * steps, SMALL_BATCH_ROWS),
   whichever is larger. */
void streamcap_layers(const FusedLayers *fused, const AttentionArgs *args, float *x, float *floats, Value *values,
                      int threads, int64_t own) {
    int rows = args->rows, steps = args->steps, count = rows * steps;
    int width = fused->layers[0].proj.out, inner = fused->layers[0].fc1.out, depth = width / fused->heads;
    float *wide = floats, *mixed = wide + (int64_t)count * 3 * width;
    float *all_scales = wide + (int64_t)count * (3 * width + inner);
    float *all_weights = all_scales + (int64_t)threads * count;
    int32_t next_panel[4 * fused->count];
    memset(next_panel, 0, sizeof next_panel);
#pragma omp parallel num_threads(threads)
    {
        int me = omp_get_thread_num(), copy = count <= SMALL_BATCH_ROWS ? me : 0;
        int here = count; /* rows that this layer computes */
        float *scales = all_scales + (int64_t)copy * count, *weights = all_weights + me * own;
        Value *packed = values + (int64_t)copy * count * (inner + ROW_PAD);
        for (int l = 0; l < fused->count; l++) {
            const Layer *layer = fused->layers + l;
            const int64_t *output_steps = l + 1 < fused->count ? NULL : args->output_steps;
            int num_outputs = output_steps ? args->num_outputs : steps;
            normalize_and_pack(x, count, width, layer->norm_1, layer->shift_1, fused->epsilon, layer->qkv.limit,
                               packed, scales);
            matmul(&layer->qkv, &layer->proj, packed, scales, count, 0, -1, next_panel + 4 * l, wide);
#pragma omp for schedule(static)
            for (int i = 0; i < rows * fused->heads; i++) {
                int row = i / fused->heads, head = i % fused->heads;
                const int64_t *which = output_steps ? output_steps + (int64_t)row * num_outputs : NULL;
                const float *qkv = wide + (int64_t)row * steps * 3 * width + head * depth;
                float *to = mixed + (int64_t)row * steps * width + head * depth;
                if (args->keys == NULL) {
                    attention_full(qkv, steps, which, num_outputs, width, depth, weights, to);
                    continue;
                }
                int64_t at = l * args->layer + row * args->row + head * args->head;
                int first = args->positions ? (int)args->positions[row] : args->start;
                /* Prefetch the next head's keys. */
                for (int d = 0; head + 1 < fused->heads && d < first * depth; d += CACHE_LINE_FLOATS)
                    _mm_prefetch((const char *)(args->keys + at + args->head + d), _MM_HINT_T0);
                attention_cached(qkv, args->keys + at, args->values + at, first, steps, which, num_outputs, width,
                                 depth, weights, to);
            }
            if (output_steps) { /* the rest of the last layer runs for the output steps only */
#pragma omp single
                for (int i = 0; i < rows * num_outputs; i++) {
                    int64_t from = (int64_t)(i / num_outputs) * steps + output_steps[i];
                    memmove(x + (int64_t)i * width, x + from * width, width * sizeof *x);
                    memmove(mixed + (int64_t)i * width, mixed + from * width, width * sizeof *x);
                }
                here = rows * num_outputs, copy = here <= SMALL_BATCH_ROWS ? me : 0;
                scales = all_scales + (int64_t)copy * count;
                packed = values + (int64_t)copy * here * (inner + ROW_PAD);
            }
            normalize_and_pack(mixed, here, width, 0, 0, 0, layer->proj.limit, packed, scales);
            matmul(&layer->proj, &layer->fc1, packed, scales, here, 1, -1, next_panel + 4 * l + 1, x);
            normalize_and_pack(x, here, width, layer->norm_2, layer->shift_2, fused->epsilon, layer->fc1.limit, packed,
                               scales);
            matmul(&layer->fc1, &layer->fc2, packed, scales, here, 0, fused->activation, next_panel + 4 * l + 2,
                   wide);
            normalize_and_pack(wide, here, inner, 0, 0, 0, layer->fc2.limit, packed, scales);
            matmul(&layer->fc2, l + 1 < fused->count ? &layer[1].qkv : fused->after, packed, scales, here, 1, -1,
                   next_panel + 4 * l + 3, x);
        }
    }
}

/* x: (rows, linear->in), layer-normed first if `norm` is not NULL -> out (rows, linear->out).
   next_linear: the linear layer that runs next, to prefetch; or NULL. floats: scratch of threads * rows.
   values: scratch of (linear->in + ROW_PAD) * n, n being rows or threads * min(rows, SMALL_BATCH_ROWS), whichever is
   larger. */
void streamcap_linear(const Linear *linear, const Linear *next_linear, const float *norm, const float *shift,
                      float epsilon, const float *x, int rows, float *floats, Value *values, int threads, float *out) {
    int width = linear->in;
    int32_t next_panel = 0;
#pragma omp parallel num_threads(threads)
    {
        int copy = rows <= SMALL_BATCH_ROWS ? omp_get_thread_num() : 0;
        float *scales = floats + (int64_t)copy * rows;
        Value *packed = values + (int64_t)copy * rows * (width + ROW_PAD);
        normalize_and_pack(x, rows, width, norm, shift, epsilon, linear->limit, packed, scales);
        matmul(linear, next_linear, packed, scales, rows, 0, -1, &next_panel, out);
    }
}
