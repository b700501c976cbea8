/* The layers of a GPT-2, and its head, with int8 weights: one call for all layers, one for the head.

   Weights are int8 by output channel, (out, in), row by row. Activations are brought to integers row by row, of at most
   `limit`, the largest for which no sum of `in` products leaves 32 bits: 12 bits and more, and every sum exact.
   A product of 16-bit pairs (vpmaddwd, or VNNI's vpdpwssd) cannot saturate, unlike that of 8-bit ones without VNNI.

   Compiled on the machine it runs on, by streamcap.captioner.compiled. */
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>
#if !defined(__AVX2__)
#error "no AVX2"
#endif
#include <immintrin.h>

#define CHANNELS 4  /* output channels of one tile */
#define TILE 4      /* rows of one tile */
#define BLOCK 64    /* output channels that a thread takes at once */
#define AHEAD 2048  /* bytes by which weights are fetched ahead */
#define FEW 4       /* rows up to which each thread prepares them for itself */

typedef struct {
    const int8_t *codes;  /* (out, in) */
    const float *scales;  /* (out) */
    const float *bias;    /* (out) */
    int32_t in, out, limit, unused;
} Linear;

typedef struct {
    const float *norm_1, *shift_1; /* (width) */
    Linear qkv, mix;
    const float *norm_2, *shift_2;
    Linear widen, narrow;
} Layer;

typedef struct {
    const Layer *layers;
    const float *norm, *shift; /* before the head */
    Linear head;
    float epsilon;
    int32_t count, heads, activation;
} Model;

typedef struct {
    float *keys, *values;                   /* of the first row's first position */
    int64_t layer, row, head;               /* strides, in floats; a position's values lie side by side */
    const int64_t *positions;               /* (rows): where each row writes, or NULL: all from `start` */
    int32_t rows, steps, start;
} Place;

/* exp as 2^(x / ln 2), a polynomial of degree 6 for the fraction; relative error below 2e-7 for -87 < x < 88. */
static inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = (x > 88.0f ? 88.0f : x) * 1.44269504f;
    float whole = (float)(int32_t)(x + (x < 0 ? -0.5f : 0.5f)), part = (x - whole) * 0.693147181f;
    float y = 0.00833333333f + part * 0.00138888889f;
    y = 0.5f + part * (0.166666667f + part * (0.0416666667f + part * y));
    y = 1.0f + part * (1.0f + part * y);
    union { int32_t i; float f; } power = {.i = ((int32_t)whole + 127) << 23};
    return y * power.f;
}

static void activate(float *x, int count, int kind) {
    if (kind == 0)
        for (int i = 0; i < count; i++) { /* x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) */
            float u = 1.59576912f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
            x[i] = x[i] / (1.0f + exponential(-u));
        }
    else if (kind == 1)
        for (int i = 0; i < count; i++) x[i] = 0.5f * x[i] * (1.0f + erff(x[i] * 0.707106781f));
    else
        for (int i = 0; i < count; i++) x[i] = x[i] > 0 ? x[i] : 0;
}

static void normalise(const float *x, const float *weight, const float *shift, float epsilon, int width, float *out) {
    float sum = 0, square = 0;
    for (int i = 0; i < width; i++) sum += x[i];
    float mean = sum / width;
    for (int i = 0; i < width; i++) square += (x[i] - mean) * (x[i] - mean);
    float factor = 1.0f / sqrtf(square / width + epsilon);
    for (int i = 0; i < width; i++) out[i] = (x[i] - mean) * factor * weight[i] + shift[i];
}

static float integers(const float *x, int count, int limit, int16_t *out) {
    float top = 1e-12f;
    for (int i = 0; i < count; i++) top = fabsf(x[i]) > top ? fabsf(x[i]) : top;
    float factor = limit / top;
    for (int i = 0; i < count; i++) {
        float y = x[i] * factor;
        out[i] = (int16_t)(int32_t)(y + (y < 0 ? -0.5f : 0.5f));
    }
    return top / limit;
}

#if defined(__AVX512BW__)
#define LANES 32
typedef __m512i Vector;
static inline Vector load(const int16_t *p) { return _mm512_loadu_si512(p); }
static inline Vector widened(const int8_t *p) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)p)); }
static inline Vector zero(void) { return _mm512_setzero_si512(); }
static inline Vector add_products(Vector sum, Vector a, Vector b) {
#if defined(__AVX512VNNI__)
    return _mm512_dpwssd_epi32(sum, a, b);
#else
    return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
#endif
}
static inline int32_t total(Vector v) { return _mm512_reduce_add_epi32(v); }
#else
#define LANES 16
typedef __m256i Vector;
static inline Vector load(const int16_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
static inline Vector widened(const int8_t *p) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p)); }
static inline Vector zero(void) { return _mm256_setzero_si256(); }
static inline Vector add_products(Vector sum, Vector a, Vector b) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}
static inline int32_t total(Vector v) {
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
}
#endif

/* CHANNELS channels times `rows` (1 to TILE, known to the compiler) rows of x. */
static inline __attribute__((always_inline)) void tile(
    const int8_t *codes, const int16_t *x, int in, const int rows, int32_t sums[TILE][CHANNELS]) {
    Vector sum[TILE][CHANNELS];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int c = 0; c < CHANNELS; c++) sum[r][c] = zero();
    for (int k = 0; k < in; k += LANES) {
        Vector weight[CHANNELS];
#pragma GCC unroll 4
        for (int c = 0; c < CHANNELS; c++) {
            weight[c] = widened(codes + (int64_t)c * in + k);
            _mm_prefetch((const char *)codes + (int64_t)c * in + k + AHEAD, _MM_HINT_T0);
        }
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            Vector value = load(x + (int64_t)r * in + k);
#pragma GCC unroll 4
            for (int c = 0; c < CHANNELS; c++) sum[r][c] = add_products(sum[r][c], value, weight[c]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int c = 0; c < CHANNELS; c++) sums[r][c] = total(sum[r][c]);
}

/* Channels [first, last) of `linear` for `rows` rows; `out` (rows, linear->out), added to where `residual`. */
static void product(const Linear *linear, const int16_t *x, const float *x_scales, int rows, int first, int last,
                    int residual, float *out) {
    int in = linear->in, width = linear->out;
    for (int c = first; c < last; c += CHANNELS) {
        int base = c + CHANNELS <= width ? c : width - CHANNELS; /* the last few are done twice */
        const int8_t *codes = linear->codes + (int64_t)base * in;
        for (int r = 0; r < rows; r += TILE) {
            int32_t sums[TILE][CHANNELS];
            const int16_t *from = x + (int64_t)r * in;
            int count = rows - r < TILE ? rows - r : TILE;
            if (count == 4) tile(codes, from, in, 4, sums);
            else if (count == 3) tile(codes, from, in, 3, sums);
            else if (count == 2) tile(codes, from, in, 2, sums);
            else tile(codes, from, in, 1, sums);
            for (int i = 0; i < count; i++)
                for (int j = c - base; j < CHANNELS; j++) {
                    float y = sums[i][j] * x_scales[r + i] * linear->scales[base + j] + linear->bias[base + j];
                    float *to = out + (int64_t)(r + i) * width + base + j;
                    *to = residual ? *to + y : y;
                }
        }
    }
}

/* One row's one head: writes its keys and values, then looks at what each step may see. qkv: (steps, 3 width). */
static void attend(const float *qkv, float *keys, float *values, int first, int steps, int width, int depth,
                   float *weights, float *out) {
    float factor = 1.0f / sqrtf((float)depth);
    for (int s = 0; s < steps; s++) {
        const float *from = qkv + (int64_t)s * 3 * width;
        memcpy(keys + (int64_t)(first + s) * depth, from + width, depth * sizeof(float));
        memcpy(values + (int64_t)(first + s) * depth, from + 2 * width, depth * sizeof(float));
    }
    for (int s = 0; s < steps; s++) {
        const float *query = qkv + (int64_t)s * 3 * width;
        int seen = first + s + 1;
        float top = -INFINITY, sum = 0;
        for (int j = 0; j < seen; j++) {
            float dot = 0;
            for (int d = 0; d < depth; d++) dot += query[d] * keys[(int64_t)j * depth + d];
            weights[j] = dot * factor;
            top = weights[j] > top ? weights[j] : top;
        }
        for (int j = 0; j < seen; j++) {
            weights[j] = exponential(weights[j] - top);
            sum += weights[j];
        }
        float *to = out + (int64_t)s * width;
        for (int d = 0; d < depth; d++) to[d] = 0;
        for (int j = 0; j < seen; j++)
            for (int d = 0; d < depth; d++) to[d] += weights[j] / sum * values[(int64_t)j * depth + d];
    }
}

/* The whole of `linear`, shared out among the threads; activated where `activation` is not below zero. */
static void products(const Linear *linear, const int16_t *x, const float *x_scales, int rows, int residual,
                     int activation, float *out) {
    int blocks = (linear->out + BLOCK - 1) / BLOCK;
#pragma omp for schedule(dynamic)
    for (int b = 0; b < blocks; b++) {
        int first = b * BLOCK, last = first + BLOCK < linear->out ? first + BLOCK : linear->out;
        product(linear, x, x_scales, rows, first, last, residual, out);
        if (activation >= 0)
            for (int r = 0; r < rows; r++)
                activate(out + (int64_t)r * linear->out + first, last - first, activation);
    }
}


static float prepare_row(const float *x, int width, const float *norm, const float *shift, float epsilon, int limit,
                         int16_t *whole) {
    if (norm == NULL) return integers(x, width, limit, whole);
    float row[width];
    normalise(x, norm, shift, epsilon, width, row);
    return integers(row, width, limit, whole);
}

/* What a product reads: rows of x, normed where there is a `norm`, as integers. With few rows every thread makes them
   for itself, which costs less than waiting for each other. */
static void prepare(const float *x, int count, int width, const float *norm, const float *shift, float epsilon,
                    int limit, int16_t *whole, float *scales) {
    if (count <= FEW) {
        for (int m = 0; m < count; m++)
            scales[m] = prepare_row(x + (int64_t)m * width, width, norm, shift, epsilon, limit,
                                whole + (int64_t)m * width);
        return;
    }
#pragma omp for schedule(static)
    for (int m = 0; m < count; m++)
        scales[m] = prepare_row(x + (int64_t)m * width, width, norm, shift, epsilon, limit,
                                whole + (int64_t)m * width);
}

/* x: (rows x steps, width), in and out. positions: what a row of the cache has room for. Room in floats: rows x steps x
   (3 width + inner + threads) + threads x positions; in shorts: threads x rows x steps x inner. */
void streamcap_layers(const Model *model, const Place *place, float *x, float *floats, int16_t *shorts, int threads,
                      int positions) {
    int rows = place->rows, steps = place->steps, count = rows * steps;
    int width = model->layers[0].mix.out, inner = model->layers[0].widen.out, depth = width / model->heads;
    float *wide = floats, *mixed = wide + (int64_t)count * 3 * width;
    float *all_scales = wide + (int64_t)count * (3 * width + inner);
    float *all_weights = all_scales + (int64_t)threads * count;
#pragma omp parallel num_threads(threads)
    {
        int me = omp_get_thread_num(), own = count <= FEW ? me : 0;
        float *scales = all_scales + (int64_t)own * count, *weights = all_weights + (int64_t)me * positions;
        int16_t *whole = shorts + (int64_t)own * count * inner;
        for (int l = 0; l < model->count; l++) {
            const Layer *layer = model->layers + l;
            prepare(x, count, width, layer->norm_1, layer->shift_1, model->epsilon, layer->qkv.limit, whole, scales);
            products(&layer->qkv, whole, scales, count, 0, -1, wide);
#pragma omp for schedule(static)
            for (int i = 0; i < rows * model->heads; i++) {
                int row = i / model->heads, head = i % model->heads;
                int64_t at = l * place->layer + row * place->row + head * place->head;
                int first = place->positions ? (int)place->positions[row] : place->start;
                attend(wide + (int64_t)row * steps * 3 * width + head * depth, place->keys + at, place->values + at,
                       first, steps, width, depth, weights,
                       mixed + (int64_t)row * steps * width + head * depth);
            }
            prepare(mixed, count, width, 0, 0, 0, layer->mix.limit, whole, scales);
            products(&layer->mix, whole, scales, count, 1, -1, x);
            prepare(x, count, width, layer->norm_2, layer->shift_2, model->epsilon, layer->widen.limit, whole,
                    scales);
            products(&layer->widen, whole, scales, count, 0, model->activation, wide);
            prepare(wide, count, inner, 0, 0, 0, layer->narrow.limit, whole, scales);
            products(&layer->narrow, whole, scales, count, 1, -1, x);
        }
    }
}

/* hidden: (rows, width) -> logits (rows, vocabulary). Room in floats: threads x rows; in shorts: threads x rows x
   width. */
void streamcap_head(const Model *model, const float *hidden, int rows, float *floats, int16_t *shorts, int threads,
                    float *logits) {
    int width = model->head.in;
#pragma omp parallel num_threads(threads)
    {
        int own = rows <= FEW ? omp_get_thread_num() : 0;
        float *scales = floats + (int64_t)own * rows;
        int16_t *whole = shorts + (int64_t)own * rows * width;
        prepare(hidden, rows, width, model->norm, model->shift, model->epsilon, model->head.limit, whole, scales);
        products(&model->head, whole, scales, rows, 0, -1, logits);
    }
}
