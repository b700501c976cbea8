/* Pre-norm transformer layers, GPT-2's with a cache and encoders', all in one call; and a single product in another. */
#include "products.h"

#define LINE 16  /* floats of a cache line */
#define LANES 64 /* floats that are added up side by side in attention */

typedef struct {
    const float *norm_1, *shift_1; /* (width) */
    Linear qkv, mix;
    const float *norm_2, *shift_2;
    Linear widen, narrow;
} Layer;

typedef struct {
    const Layer *layers;
    const Linear *after; /* what is read after the last layer, or NULL */
    float epsilon;
    int32_t count, heads, activation;
} Stack;

typedef struct {
    float *keys, *values;                   /* of the first row's first position; NULL: all positions see all */
    int64_t layer, row, head;               /* strides, in floats; a position's values lie side by side */
    const int64_t *positions;               /* (rows): where each row writes, or NULL: all from `start` */
    const int64_t *wanted;                  /* (rows, asked): rising steps of which all is wanted, or NULL: of all */
    int32_t rows, steps, start, asked;
} Place;

static int all_finite(const float *x, int count) {
    int32_t wrong = 0;
    for (int i = 0; i < count; i++) wrong |= (bits(x + i) & 0x7f800000) == 0x7f800000;
    return !wrong;
}

static void fill_with_nan(float *x, int count) {
    const int32_t nan = 0x7fc00000;
    for (int i = 0; i < count; i++) memcpy(x + i, &nan, sizeof nan);
}

/* One row's one head: writes its keys and values, then looks at what each of the `asked` steps may see; `wanted` names
   them, or all are. qkv: (steps, 3 width). */
static void attend(const float *qkv, float *keys, float *values, int first, int steps, const int64_t *wanted, int asked,
                   int width, int depth, float *weights, float *out) {
    float factor = 1.0f / sqrtf((float)depth);
    for (int i = 0; i < first * depth; i += LINE) _mm_prefetch((const char *)(values + i), _MM_HINT_T0);
    for (int s = 0; s < steps; s++) {
        const float *from = qkv + (int64_t)s * 3 * width;
        memcpy(keys + (int64_t)(first + s) * depth, from + width, depth * sizeof(float));
        memcpy(values + (int64_t)(first + s) * depth, from + 2 * width, depth * sizeof(float));
    }
    for (int i = 0; i < asked; i++) {
        int s = wanted ? (int)wanted[i] : i;
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
            weights[j] = exponential(weights[j] - top);
            sum += weights[j];
        }
        for (int d = 0; d < depth; d++) to[d] = 0;
        for (int j = 0; j < seen; j++)
            for (int d = 0; d < depth; d++) to[d] += weights[j] / sum * values[(int64_t)j * depth + d];
    }
}

typedef float Lanes __attribute__((vector_size(64), aligned(4), may_alias));

/* LANES floats: the sum of `count` rows, `stride` apart, each by its weight. */
static void weighted(const float *weights, const float *rows, int64_t stride, int count, float *out) {
    Lanes a = {0}, b = {0}, c = {0}, d = {0};
    for (int i = 0; i < count; i++) {
        const Lanes *row = (const Lanes *)(rows + i * stride);
        a += weights[i] * row[0], b += weights[i] * row[1], c += weights[i] * row[2], d += weights[i] * row[3];
    }
    Lanes *to = (Lanes *)out;
    to[0] = a, to[1] = b, to[2] = c, to[3] = d;
}

static inline int64_t whole_lanes(int count) { return (count + LANES - 1) / LANES * LANES; }

/* One row's one head where all positions see all. qkv: (steps, 3 width). Room in floats: (depth + 1) x steps and
   (steps + 1) x depth, steps and depth that follow an x being whole LANES. */
static void attend_all(const float *qkv, int steps, const int64_t *wanted, int asked, int width, int depth, float *room,
                       float *out) {
    float factor = 1.0f / sqrtf((float)depth);
    int64_t across = whole_lanes(steps), deep = whole_lanes(depth);
    float *keys = room, *values = keys + depth * across; /* (depth, steps), so that no sum goes across a vector */
    float *weights = values + steps * deep, *found = weights + across;
    memset(room, 0, (depth * across + steps * deep) * sizeof *room);
    for (int j = 0; j < steps; j++) {
        const float *key = qkv + (int64_t)j * 3 * width + width;
        for (int d = 0; d < depth; d++) keys[d * across + j] = key[d] * factor;
        memcpy(values + j * deep, key + width, depth * sizeof(float));
    }
    for (int i = 0; i < asked; i++) {
        int s = wanted ? (int)wanted[i] : i;
        float top = -INFINITY, sum = 0;
        for (int64_t j = 0; j < across; j += LANES)
            weighted(qkv + (int64_t)s * 3 * width, keys + j, across, depth, weights + j);
        float *to = out + (int64_t)s * width;
        if (!all_finite(weights, steps)) {
            fill_with_nan(to, depth);
            continue;
        }
        for (int j = 0; j < steps; j++) top = weights[j] > top ? weights[j] : top;
        for (int j = 0; j < steps; j++) {
            weights[j] = exponential(weights[j] - top);
            sum += weights[j];
        }
        for (int64_t d = 0; d < deep; d += LANES) weighted(weights, values + d, deep, steps, found + d);
        for (int d = 0; d < depth; d++) to[d] = found[d] / sum;
    }
}

/* x: (rows x steps, width), in and out; of the `wanted` steps alone (rows x asked, width) out. Room in floats: rows x
   steps x (3 width + inner + threads) + threads x `own`, which is as much as a row of the cache has positions, or what
   attend_all wants; in values: (inner + APART) x rows x steps, or x threads x FEW where that is more. */
void streamcap_layers(const Stack *stack, const Place *place, float *x, float *floats, Value *values, int threads,
                      int64_t own) {
    int rows = place->rows, steps = place->steps, count = rows * steps;
    int width = stack->layers[0].mix.out, inner = stack->layers[0].widen.out, depth = width / stack->heads;
    float *wide = floats, *mixed = wide + (int64_t)count * 3 * width;
    float *all_scales = wide + (int64_t)count * (3 * width + inner);
    float *all_weights = all_scales + (int64_t)threads * count;
    int32_t taken[4 * stack->count];
    memset(taken, 0, sizeof taken);
#pragma omp parallel num_threads(threads)
    {
        int me = omp_get_thread_num(), copy = count <= FEW ? me : 0;
        int here = count; /* rows of this layer's products */
        float *scales = all_scales + (int64_t)copy * count, *weights = all_weights + me * own;
        Value *whole = values + (int64_t)copy * count * (inner + APART);
        for (int l = 0; l < stack->count; l++) {
            const Layer *layer = stack->layers + l;
            const int64_t *wanted = l + 1 < stack->count ? NULL : place->wanted;
            int asked = wanted ? place->asked : steps;
            prepare(x, count, width, layer->norm_1, layer->shift_1, stack->epsilon, layer->qkv.limit, whole, scales);
            products(&layer->qkv, &layer->mix, whole, scales, count, 0, -1, taken + 4 * l, wide);
#pragma omp for schedule(static)
            for (int i = 0; i < rows * stack->heads; i++) {
                int row = i / stack->heads, head = i % stack->heads;
                const int64_t *which = wanted ? wanted + (int64_t)row * asked : NULL;
                const float *qkv = wide + (int64_t)row * steps * 3 * width + head * depth;
                float *to = mixed + (int64_t)row * steps * width + head * depth;
                if (place->keys == NULL) {
                    attend_all(qkv, steps, which, asked, width, depth, weights, to);
                    continue;
                }
                int64_t at = l * place->layer + row * place->row + head * place->head;
                int first = place->positions ? (int)place->positions[row] : place->start;
                /* The next head's keys come while this one's are looked at. */
                for (int d = 0; head + 1 < stack->heads && d < first * depth; d += LINE)
                    _mm_prefetch((const char *)(place->keys + at + place->head + d), _MM_HINT_T0);
                attend(qkv, place->keys + at, place->values + at, first, steps, which, asked, width, depth,
                       weights, to);
            }
            if (wanted) { /* the rest of the last layer for these alone */
#pragma omp single
                for (int i = 0; i < rows * asked; i++) {
                    int64_t from = (int64_t)(i / asked) * steps + wanted[i];
                    memmove(x + (int64_t)i * width, x + from * width, width * sizeof *x);
                    memmove(mixed + (int64_t)i * width, mixed + from * width, width * sizeof *x);
                }
                here = rows * asked, copy = here <= FEW ? me : 0;
                scales = all_scales + (int64_t)copy * count;
                whole = values + (int64_t)copy * here * (inner + APART);
            }
            prepare(mixed, here, width, 0, 0, 0, layer->mix.limit, whole, scales);
            products(&layer->mix, &layer->widen, whole, scales, here, 1, -1, taken + 4 * l + 1, x);
            prepare(x, here, width, layer->norm_2, layer->shift_2, stack->epsilon, layer->widen.limit, whole,
                    scales);
            products(&layer->widen, &layer->narrow, whole, scales, here, 0, stack->activation, taken + 4 * l + 2,
                     wide);
            prepare(wide, here, inner, 0, 0, 0, layer->narrow.limit, whole, scales);
            products(&layer->narrow, l + 1 < stack->count ? &layer[1].qkv : stack->after, whole, scales, here, 1, -1,
                     taken + 4 * l + 3, x);
        }
    }
}

/* x: (rows, linear->in), normed first where there is a `norm` -> out (rows, linear->out). `following` is read next, or
   NULL. Room in floats: threads x rows; in values: (linear->in + APART) x rows, or x threads x FEW where that is
   more. */
void streamcap_product(const Linear *linear, const Linear *following, const float *norm, const float *shift,
                       float epsilon, const float *x, int rows, float *floats, Value *values, int threads, float *out) {
    int width = linear->in;
    int32_t taken = 0;
#pragma omp parallel num_threads(threads)
    {
        int copy = rows <= FEW ? omp_get_thread_num() : 0;
        float *scales = floats + (int64_t)copy * rows;
        Value *whole = values + (int64_t)copy * rows * (width + APART);
        prepare(x, rows, width, norm, shift, epsilon, linear->limit, whole, scales);
        products(linear, following, whole, scales, rows, 0, -1, &taken, out);
    }
}
