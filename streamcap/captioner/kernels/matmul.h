/* Products of activations with weights, and what goes with them: norms, activations, the coding of rows. Built twice:
   with FLOATS, weights and activations are float32; without, int8 and 16 bits.

   What is not finite is passed on, never hidden: floats are asked by their bits, as the compiler is told that all are
   finite.

   int8: weights by output channel. Activations are brought to integers row by row, of at most `limit`, the largest
   for which no sum of `in` products leaves 32 bits: 12 bits and more, and every sum exact. A product of 16-bit pairs
   (vpmaddwd, or VNNI's vpdpwssd) cannot saturate, unlike that of 8-bit ones without VNNI.

   Weights lie in the order in which they are read, PANEL output channels side by side, STEP inputs after STEP inputs:
   one stream from memory, every weight read once for up to TILE rows, and no sum across a vector.

   Compiled on the machine it runs on, by streamcap.captioner.kernels.build. */
#pragma once
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>
#if !defined(__AVX2__)
#error "no AVX2"
#endif
#include <immintrin.h>

#if defined(FLOATS)
typedef float Weight, Value; /* of a weight, of an activation */
#define STEP 1             /* inputs that are multiplied at once */
#else
typedef int8_t Weight;
typedef int16_t Value;
#define STEP 2
#endif

#define PANEL 32    /* output channels that lie side by side */
#define ROW_PAD (64 / (int)sizeof(Value)) /* values between two rows, which else would want the same lines of a cache */
#define PREFETCH_BYTES 4096  /* bytes by which weights are fetched ahead */
#define SMALL_BATCH_ROWS 4       /* rows up to which each thread prepares them for itself */
#define RELU 3      /* of the kinds that `activate` knows */
#define LOCAL static __attribute__((unused)) /* not every file needs all of them */

typedef struct {
    const Weight *qweight;    /* (panels, in / STEP, PANEL, STEP) */
    const float *scales;  /* (panels, PANEL), as bias; floats have none */
    const float *bias;
    int32_t in, out, limit, unused;
} Linear;

static inline int32_t bits(const float *x) {
    int32_t found;
    memcpy(&found, x, sizeof found);
    return found;
}

/* exp as 2^(x / ln 2), a polynomial of degree 6 for the fraction; relative error below 2e-7 for -87 < x < 88. */
static inline float fast_exp(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = (x > 88.0f ? 88.0f : x) * 1.44269504f;
    float packed = (float)(int32_t)(x + (x < 0 ? -0.5f : 0.5f)), part = (x - packed) * 0.693147181f;
    float y = 0.00833333333f + part * 0.00138888889f;
    y = 0.5f + part * (0.166666667f + part * (0.0416666667f + part * y));
    y = 1.0f + part * (1.0f + part * y);
    union { int32_t i; float f; } power = {.i = ((int32_t)packed + 127) << 23};
    return y * power.f;
}

/* Abramowitz and Stegun 7.1.26, its error at most 1.5e-7; unlike libm's it is computed for a whole vector at once. */
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
        for (int i = 0; i < count; i++) x[i] = 0.5f * (x[i] + fabsf(x[i])); /* a choice would lose what is no number */
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

#if defined(__AVX512F__)
#define GROUP 16 /* output channels of one vector */
#define TILE 12  /* rows of one tile, so that its sums stay in registers */
#define SUMS 24  /* vectors of sums that registers have room for */
typedef __m512 Vector;
static inline Vector loaded(const Weight *p) { return _mm512_loadu_ps(p); }
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
#define TILE 6
#define SUMS 12
typedef __m256 Vector;
static inline Vector loaded(const Weight *p) { return _mm256_loadu_ps(p); }
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
LOCAL float pack_row(const float *x, int count, int limit, Value *out) {
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
static inline Vector loaded(const Weight *p) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)p)); }
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
#define TILE 6
#define SUMS 12
typedef __m256i Vector;
static inline Vector loaded(const Weight *p) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p)); }
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
LOCAL float pack_row(const float *x, int count, int limit, Value *out) {
    union { float f; int32_t i; } highest = {.f = 1e-12f};
    for (int i = 0; i < count; i++) {
        int32_t size = bits(x + i) & 0x7fffffff; /* in the order of sizes, with what is no number above all */
        highest.i = size > highest.i ? size : highest.i;
    }
    float top = highest.f, factor = limit / top;
    for (int i = 0; i < count; i++) {
        float y = x[i] * factor;
        out[i] = (int16_t)(int32_t)(y + (y < 0 ? -0.5f : 0.5f));
    }
    return top / limit;
}

#endif
#define VECTORS (PANEL / GROUP)

/* `vectors` of one panel times `rows` (1 to TILE) rows of x, both known to the compiler, scaled: out (rows, PANEL).
   Fetches what comes AHEAD bytes later, first of this panel, then of `next`. With few rows each sum of integers is made
   in parts, so that none waits for the one before it. Floats are summed in one order whatever the number of rows: a
   row's result is the same bits in every batch. */
static inline __attribute__((always_inline)) void tile(const Weight *qweight, const Weight *next, const Value *x, int in,
                                                       const int rows, const int vectors, const float *x_scales,
                                                       const float *scales, const float *bias, float *out) {
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
    const int size = PANEL * sizeof(Weight), split = in * size > PREFETCH_BYTES ? in - PREFETCH_BYTES / size : 0;
    for (int half = 0; half < 2; half++) {
        const char *ahead = half ? (const char *)next - (int64_t)split * size : (const char *)qweight + PREFETCH_BYTES;
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
                for (int v = 0; v < vectors; v++) weight[v] = loaded(qweight + (int64_t)at * PANEL + v * STEP * GROUP);
#pragma GCC unroll 16
                for (int r = 0; r < rows; r++) {
                    Vector value = repeated(x + (int64_t)r * (in + ROW_PAD) + at);
#pragma GCC unroll 4
                    for (int v = 0; v < vectors; v++) sum[r][v][p] = add_products(sum[r][v][p], value, weight[v]);
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
            for (int p = 1; p < parts; p++) all = added(all, sum[r][v][p]);
            scaled(all, x_scales[r], scales + v * GROUP, bias + v * GROUP, out + r * PANEL + v * GROUP);
        }
}

/* As many vectors at once as leave room for the sums of n rows. */
#define ACROSS(n) (n * VECTORS <= SUMS ? VECTORS : SUMS / TILE)
#define CASE(n) \
    case n: \
        for (int v = 0; v < VECTORS; v += ACROSS(n)) \
            tile(qweight + v * STEP * GROUP, next, x, in, n, ACROSS(n), x_scales, scales + v * GROUP, bias + v * GROUP, \
                 out + v * GROUP); \
        break;

LOCAL void tiles(const Weight *qweight, const Weight *next, const Value *x, int in, int rows, const float *x_scales,
                 const float *scales, const float *bias, float *out) {
    switch (rows) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if TILE > 6
        CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
    }
}

/* One panel of `linear` for `rows` rows; `out` (rows, linear->out), added to where `residual`. */
LOCAL void panel_matmul(const Linear *linear, const Value *x, const float *x_scales, int rows, int panel,
                   const Weight *next, int residual, float *out) {
    int in = linear->in, width = linear->out, first = panel * PANEL;
    int wide = width - first < PANEL ? width - first : PANEL;
    int size = (rows + TILE - 1) / TILE; /* so many tiles, as equal as can be */
    size = (rows + size - 1) / size;
    float found[TILE * PANEL];
    for (int r = 0; r < rows; r += size) {
        int count = rows - r < size ? rows - r : size;
        tiles(linear->qweight + (int64_t)first * in, next, x + (int64_t)r * (in + ROW_PAD), in, count, x_scales + r,
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

/* The whole of `linear`, activated where `activation` is not below zero. Threads take panel after panel; each knows its
   next one while it works, and fetches it, at the end the first of `following`, which is read after this. */
LOCAL void matmul(const Linear *linear, const Linear *next_linear, const Value *x, const float *x_scales, int rows,
                    int residual, int activation, int32_t *next_panel, float *out) {
    int panels = (linear->out + PANEL - 1) / PANEL, me = omp_get_thread_num(), threads = omp_get_num_threads();
    for (int p = me, after; p < panels; p = after) {
        after = threads + __atomic_fetch_add(next_panel, 1, __ATOMIC_RELAXED);
        const Weight *next = after < panels ? linear->qweight + (int64_t)after * PANEL * linear->in
                           : next_linear    ? next_linear->qweight + (int64_t)me * PANEL * next_linear->in
                                          : linear->qweight;
        panel_matmul(linear, x, x_scales, rows, p, next, residual, out);
        int first = p * PANEL, last = first + PANEL < linear->out ? first + PANEL : linear->out;
        if (activation >= 0)
            for (int r = 0; r < rows; r++)
                activate(out + (int64_t)r * linear->out + first, last - first, activation);
    }
#pragma omp barrier
}

LOCAL float normalize_and_pack_row(const float *x, int width, const float *norm, const float *shift, float epsilon, int limit,
                        Value *packed) {
    if (norm == NULL) return pack_row(x, width, limit, packed);
    float row[width];
    layer_norm(x, norm, shift, epsilon, width, row);
    return pack_row(row, width, limit, packed);
}

/* What a product reads: rows of x, normed where there is a `norm`, coded. With few rows every thread makes them
   for itself, which costs less than waiting for each other. */
LOCAL void normalize_and_pack(const float *x, int count, int width, const float *norm, const float *shift, float epsilon,
                   int limit, Value *packed, float *scales) {
    if (count <= SMALL_BATCH_ROWS) {
        for (int m = 0; m < count; m++)
            scales[m] = normalize_and_pack_row(x + (int64_t)m * width, width, norm, shift, epsilon, limit,
                                packed + (int64_t)m * (width + ROW_PAD));
        return;
    }
#pragma omp for schedule(static)
    for (int m = 0; m < count; m++)
        scales[m] = normalize_and_pack_row(x + (int64_t)m * width, width, norm, shift, epsilon, limit,
                                packed + (int64_t)m * (width + ROW_PAD));
}
