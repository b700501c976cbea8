/* Pre-norm transformer layers, GPT-2's and encoders': one call for all of them, and one for any other product; small
   convolutions. Built twice: with FLOATS, weights and activations are float32; without, int8 and 16 bits.

   What is not finite is passed on, never hidden: floats are asked by their bits, as the compiler is told that all are
   finite.

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
#define APART (64 / (int)sizeof(Value)) /* values between two rows, which else would want the same lines of a cache */
#define AHEAD 4096  /* bytes by which weights are fetched ahead */
#define LINE 16     /* floats of a cache line */
#define FEW 4       /* rows up to which each thread prepares them for itself */
#define RELU 3      /* of the kinds that `activate` knows */
#define LANES 64    /* floats that are added up side by side in attention */

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

static inline int32_t bits(const float *x) {
    int32_t found;
    memcpy(&found, x, sizeof found);
    return found;
}

static int all_finite(const float *x, int count) {
    int32_t wrong = 0;
    for (int i = 0; i < count; i++) wrong |= (bits(x + i) & 0x7f800000) == 0x7f800000;
    return !wrong;
}

static void fill_with_nan(float *x, int count) {
    const int32_t nan = 0x7fc00000;
    for (int i = 0; i < count; i++) memcpy(x + i, &nan, sizeof nan);
}

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

/* Abramowitz and Stegun 7.1.26, its error at most 1.5e-7; unlike libm's it is computed for a whole vector at once. */
static inline float error_function(float x) {
    float size = fabsf(x), t = 1.0f / (1.0f + 0.3275911f * size);
    float y = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    y = 1.0f - y * exponential(-size * size);
    return x < 0 ? -y : y;
}

static void activate(float *x, int count, int kind) {
    if (kind == 0)
        for (int i = 0; i < count; i++) { /* x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) */
            float u = 1.59576912f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
            x[i] = x[i] / (1.0f + exponential(-u));
        }
    else if (kind == 1)
        for (int i = 0; i < count; i++) x[i] = 0.5f * x[i] * (1.0f + error_function(x[i] * 0.707106781f));
    else if (kind == 2)
        for (int i = 0; i < count; i++) x[i] = x[i] / (1.0f + exponential(-1.702f * x[i])); /* CLIP's quick GELU */
    else
        for (int i = 0; i < count; i++) x[i] = 0.5f * (x[i] + fabsf(x[i])); /* a choice would lose what is no number */
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
#define TILE 6
#define SUMS 12
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
#define TILE 6
#define SUMS 12
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
   Fetches what comes AHEAD bytes later, first of this panel, then of `next`. With few rows each sum is made in parts, so
   that none waits for the one before it. */
static inline __attribute__((always_inline)) void tile(const Code *codes, const Code *next, const Value *x, int in,
                                                       const int rows, const int vectors, const float *x_scales,
                                                       const float *scales, const float *bias, float *out) {
    const int parts = rows * vectors * 4 <= SUMS ? 4 : rows * vectors * 2 <= SUMS ? 2 : 1;
    Vector sum[TILE][VECTORS][4];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
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
                for (int v = 0; v < vectors; v++) weight[v] = loaded(codes + (int64_t)at * PANEL + v * STEP * GROUP);
#pragma GCC unroll 16
                for (int r = 0; r < rows; r++) {
                    Vector value = repeated(x + (int64_t)r * (in + APART) + at);
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
            tile(codes + v * STEP * GROUP, next, x, in, n, ACROSS(n), x_scales, scales + v * GROUP, bias + v * GROUP, \
                 out + v * GROUP); \
        break;

static void tiles(const Code *codes, const Code *next, const Value *x, int in, int rows, const float *x_scales,
                  const float *scales, const float *bias, float *out) {
    switch (rows) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if TILE > 6
        CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
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
        tiles(linear->codes + (int64_t)first * in, next, x + (int64_t)r * (in + APART), in, count, x_scales + r,
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

/* The whole of `linear`, activated where `activation` is not below zero. Threads take panel after panel; each knows its
   next one while it works, and fetches it, at the end the first of `following`, which is read after this. */
static void products(const Linear *linear, const Linear *following, const Value *x, const float *x_scales, int rows,
                     int residual, int activation, int32_t *taken, float *out) {
    int panels = (linear->out + PANEL - 1) / PANEL, me = omp_get_thread_num(), threads = omp_get_num_threads();
    for (int p = me, after; p < panels; p = after) {
        after = threads + __atomic_fetch_add(taken, 1, __ATOMIC_RELAXED);
        const Code *next = after < panels ? linear->codes + (int64_t)after * PANEL * linear->in
                           : following    ? following->codes + (int64_t)me * PANEL * following->in
                                          : linear->codes;
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
                                whole + (int64_t)m * (width + APART));
        return;
    }
#pragma omp for schedule(static)
    for (int m = 0; m < count; m++)
        scales[m] = prepare_row(x + (int64_t)m * width, width, norm, shift, epsilon, limit,
                                whole + (int64_t)m * (width + APART));
}

/* x: (rows x steps, width), in and out, and of the `wanted` steps alone (rows x asked, width) out. Room in floats: rows x
   steps x (3 width + inner + threads) + threads x `own`, where a thread's own is what a row of the cache has positions,
   or what attend_all wants; in values: as many rows of inner + APART as there are, or threads x FEW
   where that is more. */
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
   NULL. Room in floats: threads x rows; in values: that of `copies` rows, each
   linear->in + APART, where copies is rows, or threads x rows where they are FEW. */
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

#if defined(FLOATS)

typedef struct {
    int32_t batch, height, width, channels; /* of what comes in: (batch, height, width, channels) */
    int32_t down, across;                   /* of what goes out: (batch, down, across, linear->out) */
    int32_t kernel, stride, before, unused; /* before: zeros that lie above and on the left */
} Grid;

/* What output pixel number `pixel` sees, (kernel, kernel, channels), with zeros up to `in`. */
static void gather(const Grid *grid, const float *x, int pixel, int in, float *to) {
    int side = grid->kernel, channels = grid->channels, per = grid->down * grid->across;
    int top = pixel % per / grid->across * grid->stride - grid->before;
    int left = pixel % grid->across * grid->stride - grid->before;
    int from = left < 0 ? -left : 0, until = left + side > grid->width ? grid->width - left : side;
    memset(to, 0, in * sizeof *to);
    for (int k = 0; k < side; k++) {
        if (top + k < 0 || top + k >= grid->height) continue;
        int64_t row = (int64_t)(pixel / per) * grid->height + top + k;
        memcpy(to + (k * side + from) * channels, x + (row * grid->width + left + from) * channels,
               (until - from) * channels * sizeof *to);
    }
}

/* A convolution as products of what `block` pixels see, added to `out` where `residual`, at least zero where `relu`.
   Room: threads x block x (linear->in + APART). */
void streamcap_convolve(const Linear *linear, const Grid *grid, const float *x, int residual, int relu, float *room,
                        int block, int threads, float *out) {
    int in = linear->in, pixels = grid->batch * grid->down * grid->across;
    int blocks = (pixels + block - 1) / block, panels = (linear->out + PANEL - 1) / PANEL;
    int shared = blocks < threads; /* then all work on one block's panels, else each on blocks of its own */
    int32_t taken[blocks];
    float ones[block];
    memset(taken, 0, sizeof taken);
    for (int i = 0; i < block; i++) ones[i] = 1.0f;
#pragma omp parallel num_threads(threads)
    {
        int me = omp_get_thread_num(), team = omp_get_num_threads(); /* which may be fewer than were asked for */
        float *seen = room + (shared ? 0 : (int64_t)me * block * (in + APART));
        for (int b = shared ? 0 : me; b < blocks; b += shared ? 1 : team) {
            int first = b * block, rows = pixels - first < block ? pixels - first : block;
            float *to = out + (int64_t)first * linear->out;
            if (shared) {
#pragma omp for schedule(static)
                for (int i = 0; i < rows; i++) gather(grid, x, first + i, in, seen + (int64_t)i * (in + APART));
                products(linear, linear, seen, ones, rows, residual, relu ? RELU : -1, taken + b, to);
                continue;
            }
            for (int i = 0; i < rows; i++) gather(grid, x, first + i, in, seen + (int64_t)i * (in + APART));
            for (int p = 0; p < panels; p++)
                product(linear, seen, ones, rows, p, linear->codes + (p + 1 < panels ? (int64_t)(p + 1) * PANEL * in : 0),
                        residual, to);
            if (relu) activate(to, rows * linear->out, RELU);
        }
    }
}
#endif
