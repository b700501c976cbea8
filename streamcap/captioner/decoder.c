/* The layers of a GPT-2, and its head: one call for all layers, one for the head. Built twice: with FLOATS, weights and
   activations are float32; without, int8 and 16 bits.

   int8: weights by output channel. Activations are brought to integers row by row, of at most `limit`, the largest
   for which no sum of `in` products leaves 32 bits: 12 bits and more, and every sum exact. A product of 16-bit pairs
   (vpmaddwd, or VNNI's vpdpwssd) cannot saturate, unlike that of 8-bit ones without VNNI.

   Weights lie in the order in which they are read, PANEL output channels side by side, STEP inputs after STEP inputs:
   one stream from memory, every weight read once for up to TILE rows, and no sum across a vector.

   Compiled on the machine it runs on, by streamcap.captioner.compiled. */
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>
#if !defined(__AVX2__)
#error "no AVX2"
#endif
#include <immintrin.h>

#if defined(FLOATS)
typedef float Code, Value; /* of a weight, of an activation */
#define STEP 1             /* inputs that are multiplied at once */
#else
typedef int8_t Code;
typedef int16_t Value;
#define STEP 2
#endif

#define PANEL 32    /* output channels that lie side by side */
#define AHEAD 4096  /* bytes by which weights are fetched ahead */
#define LINE 16     /* floats of a cache line */
#define FEW 4       /* rows up to which each thread prepares them for itself */

typedef struct {
    const Code *codes;    /* (panels, in / STEP, PANEL, STEP) */
    const float *scales;  /* (panels, PANEL), as bias; floats have none */
    const float *bias;
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

#if defined(FLOATS)

#if defined(__AVX512F__)
#define GROUP 16 /* output channels of one vector */
#define TILE 12  /* rows of one tile, so that its sums stay in registers */
#define SUMS 24  /* vectors of sums that registers have room for */
typedef __m512 Vector;
static inline Vector loaded(const Code *p) { return _mm512_loadu_ps(p); }
static inline Vector repeated(const Value *p) { return _mm512_set1_ps(*p); }
static inline Vector zero(void) { return _mm512_setzero_ps(); }
static inline Vector add_products(Vector sum, Vector a, Vector b) { return _mm512_fmadd_ps(a, b, sum); }
static inline Vector added(Vector a, Vector b) { return _mm512_add_ps(a, b); }
static inline void scaled(Vector sum, float by, const float *scales, const float *bias, float *out) {
    (void)by, (void)scales;
    _mm512_storeu_ps(out, _mm512_add_ps(sum, _mm512_loadu_ps(bias)));
}
#else
#define GROUP 8
#define TILE 2
#define SUMS 8
typedef __m256 Vector;
static inline Vector loaded(const Code *p) { return _mm256_loadu_ps(p); }
static inline Vector repeated(const Value *p) { return _mm256_set1_ps(*p); }
static inline Vector zero(void) { return _mm256_setzero_ps(); }
static inline Vector add_products(Vector sum, Vector a, Vector b) { return _mm256_fmadd_ps(a, b, sum); }
static inline Vector added(Vector a, Vector b) { return _mm256_add_ps(a, b); }
static inline void scaled(Vector sum, float by, const float *scales, const float *bias, float *out) {
    (void)by, (void)scales;
    _mm256_storeu_ps(out, _mm256_add_ps(sum, _mm256_loadu_ps(bias)));
}
#endif

/* What a product reads of a row, and what its sums are to be multiplied with. */
static float coded(const float *x, int count, int limit, Value *out) {
    (void)limit;
    memcpy(out, x, count * sizeof *x);
    return 1.0f;
}

#else

#if defined(__AVX512BW__)
#define GROUP 16 /* output channels of one vector */
#define TILE 12  /* rows of one tile, so that its sums stay in registers */
#define SUMS 24
typedef __m512i Vector;
static inline Vector loaded(const Code *p) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)p)); }
static inline Vector repeated(const Value *p) {
    int32_t pair;
    memcpy(&pair, p, sizeof pair);
    return _mm512_set1_epi32(pair);
}
static inline Vector added(Vector a, Vector b) { return _mm512_add_epi32(a, b); }
static inline Vector zero(void) { return _mm512_setzero_si512(); }
static inline Vector add_products(Vector sum, Vector a, Vector b) {
#if defined(__AVX512VNNI__)
    return _mm512_dpwssd_epi32(sum, a, b);
#else
    return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
#endif
}
/* sum x by x scales + bias */
static inline void scaled(Vector sum, float by, const float *scales, const float *bias, float *out) {
    __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(_mm512_set1_ps(by), _mm512_loadu_ps(scales)));
    _mm512_storeu_ps(out, _mm512_add_ps(y, _mm512_loadu_ps(bias)));
}
#else
#define GROUP 8
#define TILE 2
#define SUMS 8
typedef __m256i Vector;
static inline Vector loaded(const Code *p) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p)); }
static inline Vector repeated(const Value *p) {
    int32_t pair;
    memcpy(&pair, p, sizeof pair);
    return _mm256_set1_epi32(pair);
}
static inline Vector added(Vector a, Vector b) { return _mm256_add_epi32(a, b); }
static inline Vector zero(void) { return _mm256_setzero_si256(); }
static inline Vector add_products(Vector sum, Vector a, Vector b) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}
static inline void scaled(Vector sum, float by, const float *scales, const float *bias, float *out) {
    __m256 y = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(_mm256_set1_ps(by), _mm256_loadu_ps(scales)));
    _mm256_storeu_ps(out, _mm256_add_ps(y, _mm256_loadu_ps(bias)));
}
#endif

/* What a product reads of a row, and what its sums are to be multiplied with. */
static float coded(const float *x, int count, int limit, Value *out) {
    float top = 1e-12f;
    for (int i = 0; i < count; i++) top = fabsf(x[i]) > top ? fabsf(x[i]) : top;
    float factor = limit / top;
    for (int i = 0; i < count; i++) {
        float y = x[i] * factor;
        out[i] = (int16_t)(int32_t)(y + (y < 0 ? -0.5f : 0.5f));
    }
    return top / limit;
}

#endif
#define VECTORS (PANEL / GROUP)

/* One panel times `rows` (1 to TILE, known to the compiler) rows of x, scaled: out (rows, PANEL). Fetches what comes
   AHEAD bytes later, first of this panel, then of `next`. With few rows each sum is made in parts, so that none waits
   for the one before it. */
static inline __attribute__((always_inline)) void tile(const Code *codes, const Code *next, const Value *x, int in,
                                                       const int rows, const float *x_scales, const float *scales,
                                                       const float *bias, float *out) {
    const int parts = rows * VECTORS * 4 <= SUMS ? 4 : rows * VECTORS * 2 <= SUMS ? 2 : 1;
    Vector sum[TILE][VECTORS][4];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++)
#pragma GCC unroll 4
            for (int p = 0; p < parts; p++) sum[r][v][p] = zero();
    const int size = PANEL * sizeof(Code), split = in * size > AHEAD ? in - AHEAD / size : 0;
    for (int half = 0; half < 2; half++) {
        const char *ahead = half ? (const char *)next - (int64_t)split * size : (const char *)codes + AHEAD;
        const int stop = half ? in : split;
        for (int k = half ? split : 0; k < stop; k += parts * STEP) {
#pragma GCC unroll 4
            for (int p = 0; p < parts; p++) {
                const int at = k + p * STEP;
#pragma GCC unroll 4
                for (int line = 0; line < STEP * size / 64; line++)
                    _mm_prefetch(ahead + (int64_t)at * size + 64 * line, _MM_HINT_T0);
                Vector weight[VECTORS];
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; v++) weight[v] = loaded(codes + (int64_t)at * PANEL + v * STEP * GROUP);
#pragma GCC unroll 16
                for (int r = 0; r < rows; r++) {
                    Vector value = repeated(x + (int64_t)r * in + at);
#pragma GCC unroll 4
                    for (int v = 0; v < VECTORS; v++) sum[r][v][p] = add_products(sum[r][v][p], value, weight[v]);
                }
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
            Vector all = sum[r][v][0];
#pragma GCC unroll 4
            for (int p = 1; p < parts; p++) all = added(all, sum[r][v][p]);
            scaled(all, x_scales[r], scales + v * GROUP, bias + v * GROUP, out + r * PANEL + v * GROUP);
        }
}

#define CASE(n) \
    case n: \
        tile(codes, next, x, in, n, x_scales, scales, bias, out); \
        break;

static void tiles(const Code *codes, const Code *next, const Value *x, int in, int rows, const float *x_scales,
                  const float *scales, const float *bias, float *out) {
    switch (rows) {
        CASE(1) CASE(2)
#if TILE > 2
        CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
    }
}

/* One panel of `linear` for `rows` rows; `out` (rows, linear->out), added to where `residual`. */
static void product(const Linear *linear, const Value *x, const float *x_scales, int rows, int panel,
                    const Code *next, int residual, float *out) {
    int in = linear->in, width = linear->out, first = panel * PANEL;
    int wide = width - first < PANEL ? width - first : PANEL;
    int size = (rows + TILE - 1) / TILE; /* so many tiles, as equal as can be */
    size = (rows + size - 1) / size;
    float found[TILE * PANEL];
    for (int r = 0; r < rows; r += size) {
        int count = rows - r < size ? rows - r : size;
        tiles(linear->codes + (int64_t)first * in, next, x + (int64_t)r * in, in, count, x_scales + r,
              linear->scales + first, linear->bias + first, found);
        for (int i = 0; i < count; i++) {
            float *to = out + (int64_t)(r + i) * width + first;
            const float *from = found + i * PANEL;
            if (residual)
                for (int j = 0; j < wide; j++) to[j] += from[j];
            else
                memcpy(to, from, wide * sizeof(float));
        }
    }
}

/* One row's one head: writes its keys and values, then looks at what each step may see. qkv: (steps, 3 width). */
static void attend(const float *qkv, float *keys, float *values, int first, int steps, int width, int depth,
                   float *weights, float *out) {
    float factor = 1.0f / sqrtf((float)depth);
    for (int i = 0; i < first * depth; i += LINE) _mm_prefetch((const char *)(values + i), _MM_HINT_T0);
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

/* The whole of `linear`, activated where `activation` is not below zero. Threads take panel after panel; each knows its
   next one while it works, and fetches it, at the end the first of `following`, which is read after this. */
static void products(const Linear *linear, const Linear *following, const Value *x, const float *x_scales, int rows,
                     int residual, int activation, int32_t *taken, float *out) {
    int panels = (linear->out + PANEL - 1) / PANEL, me = omp_get_thread_num(), threads = omp_get_num_threads();
    for (int p = me, after; p < panels; p = after) {
        after = threads + __atomic_fetch_add(taken, 1, __ATOMIC_RELAXED);
        const Code *next = after < panels ? linear->codes + (int64_t)after * PANEL * linear->in
                                            : following->codes + (int64_t)me * PANEL * following->in;
        product(linear, x, x_scales, rows, p, next, residual, out);
        int first = p * PANEL, last = first + PANEL < linear->out ? first + PANEL : linear->out;
        if (activation >= 0)
            for (int r = 0; r < rows; r++)
                activate(out + (int64_t)r * linear->out + first, last - first, activation);
    }
#pragma omp barrier
}

static float prepare_row(const float *x, int width, const float *norm, const float *shift, float epsilon, int limit,
                         Value *whole) {
    if (norm == NULL) return coded(x, width, limit, whole);
    float row[width];
    normalise(x, norm, shift, epsilon, width, row);
    return coded(row, width, limit, whole);
}

/* What a product reads: rows of x, normed where there is a `norm`, coded. With few rows every thread makes them
   for itself, which costs less than waiting for each other. */
static void prepare(const float *x, int count, int width, const float *norm, const float *shift, float epsilon,
                    int limit, Value *whole, float *scales) {
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
   (3 width + inner + threads) + threads x positions; in values: threads x rows x steps x inner. */
void streamcap_layers(const Model *model, const Place *place, float *x, float *floats, Value *values, int threads,
                      int positions) {
    int rows = place->rows, steps = place->steps, count = rows * steps;
    int width = model->layers[0].mix.out, inner = model->layers[0].widen.out, depth = width / model->heads;
    float *wide = floats, *mixed = wide + (int64_t)count * 3 * width;
    float *all_scales = wide + (int64_t)count * (3 * width + inner);
    float *all_weights = all_scales + (int64_t)threads * count;
    int32_t taken[4 * model->count];
    memset(taken, 0, sizeof taken);
#pragma omp parallel num_threads(threads)
    {
        int me = omp_get_thread_num(), own = count <= FEW ? me : 0;
        float *scales = all_scales + (int64_t)own * count, *weights = all_weights + (int64_t)me * positions;
        Value *whole = values + (int64_t)own * count * inner;
        for (int l = 0; l < model->count; l++) {
            const Layer *layer = model->layers + l;
            prepare(x, count, width, layer->norm_1, layer->shift_1, model->epsilon, layer->qkv.limit, whole, scales);
            products(&layer->qkv, &layer->mix, whole, scales, count, 0, -1, taken + 4 * l, wide);
#pragma omp for schedule(static)
            for (int i = 0; i < rows * model->heads; i++) {
                int row = i / model->heads, head = i % model->heads;
                int64_t at = l * place->layer + row * place->row + head * place->head;
                int first = place->positions ? (int)place->positions[row] : place->start;
                /* The next head's keys come while this one's are looked at. */
                for (int d = 0; head + 1 < model->heads && d < first * depth; d += LINE)
                    _mm_prefetch((const char *)(place->keys + at + place->head + d), _MM_HINT_T0);
                attend(wide + (int64_t)row * steps * 3 * width + head * depth, place->keys + at, place->values + at,
                       first, steps, width, depth, weights,
                       mixed + (int64_t)row * steps * width + head * depth);
            }
            prepare(mixed, count, width, 0, 0, 0, layer->mix.limit, whole, scales);
            products(&layer->mix, &layer->widen, whole, scales, count, 1, -1, taken + 4 * l + 1, x);
            prepare(x, count, width, layer->norm_2, layer->shift_2, model->epsilon, layer->widen.limit, whole,
                    scales);
            products(&layer->widen, &layer->narrow, whole, scales, count, 0, model->activation, taken + 4 * l + 2,
                     wide);
            prepare(wide, count, inner, 0, 0, 0, layer->narrow.limit, whole, scales);
            products(&layer->narrow, l + 1 < model->count ? &layer[1].qkv : &model->head, whole, scales, count, 1, -1,
                     taken + 4 * l + 3, x);
        }
    }
}

/* hidden: (rows, width) -> logits (rows, vocabulary). Room in floats: threads x rows; in values: threads x rows x
   width. */
void streamcap_head(const Model *model, const float *hidden, int rows, float *floats, Value *values, int threads,
                    float *logits) {
    int width = model->head.in;
    int32_t taken = 0;
#pragma omp parallel num_threads(threads)
    {
        int own = rows <= FEW ? omp_get_thread_num() : 0;
        float *scales = floats + (int64_t)own * rows;
        Value *whole = values + (int64_t)own * rows * width;
        prepare(hidden, rows, width, model->norm, model->shift, model->epsilon, model->head.limit, whole, scales);
        products(&model->head, &model->layers->qkv, whole, scales, rows, 0, -1, &taken, logits);
    }
}
