/* One vector of output channels for each instruction set: AVX-512, AVX2, SSE4.1, and NEON with and without dot product.

   GROUP: output channels in a vector. TILE: rows in one tile. SUMS: accumulator vectors that fit in registers.
   in_register: float32; makes the compiler load a value once instead of at every use.
   STEP: inputs that `multiply_add` takes at once for each output channel. LAYOUT_STEP: inputs of an output channel that
   are side by side in memory. */
#pragma once
#include <stdint.h>
#include <string.h>
#if defined(__SSE4_1__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
/* gcc's prefetch under the names of x86. */
#define _MM_HINT_T0 3
#define _MM_HINT_T1 2
#define _mm_prefetch(address, hint) __builtin_prefetch(address, 0, hint)
#else
#error "neither SSE4.1 nor NEON"
#endif

#define PANEL 32 /* output channels stored side by side */

#if defined(FLOATS)
typedef float Weight, Value; /* types of a weight and of a packed activation */
#define LAYOUT_STEP 1
#define STEP 1

#if defined(__AVX512F__)
#define GROUP 16
#define TILE 12
#define SUMS 24
typedef __m512 Vector;
static inline Vector load_weights(const Weight *p) { return _mm512_loadu_ps(p); }
static inline Vector in_register(Vector x) { __asm__("" : "+v"(x)); return x; }
static inline Vector broadcast(const Value *p) { return _mm512_set1_ps(*p); }
static inline Vector zero(void) { return _mm512_setzero_ps(); }
static inline Vector multiply_add(Vector sum, Vector a, Vector b) { return _mm512_fmadd_ps(a, b, sum); }
static inline Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
static inline void store_scaled(Vector sum, float by, const float *scales, const float *bias, float *out) {
    (void)by, (void)scales;
    _mm512_storeu_ps(out, _mm512_add_ps(sum, _mm512_loadu_ps(bias)));
}
#elif defined(__AVX2__)
#define GROUP 8
#define TILE 6
#define SUMS 12
typedef __m256 Vector;
static inline Vector load_weights(const Weight *p) { return _mm256_loadu_ps(p); }
static inline Vector in_register(Vector x) { __asm__("" : "+x"(x)); return x; }
static inline Vector broadcast(const Value *p) { return _mm256_set1_ps(*p); }
static inline Vector zero(void) { return _mm256_setzero_ps(); }
static inline Vector multiply_add(Vector sum, Vector a, Vector b) { return _mm256_fmadd_ps(a, b, sum); }
static inline Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
static inline void store_scaled(Vector sum, float by, const float *scales, const float *bias, float *out) {
    (void)by, (void)scales;
    _mm256_storeu_ps(out, _mm256_add_ps(sum, _mm256_loadu_ps(bias)));
}
#else
/* Two halves of four; gcc compiles the operators to SSE or NEON. */
#define GROUP 8
#define TILE 6
#if defined(__aarch64__)
#define SUMS 12
#else
#define SUMS 6
#endif
typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
typedef struct { Four low, high; } Vector;
static inline Vector load_weights(const Weight *p) { return (Vector){((const Four *)p)[0], ((const Four *)p)[1]}; }
static inline Vector in_register(Vector x) { return x; }
static inline Vector broadcast(const Value *p) { return (Vector){{*p, *p, *p, *p}, {*p, *p, *p, *p}}; }
static inline Vector zero(void) { return (Vector){{0}, {0}}; }
static inline Vector multiply_add(Vector sum, Vector a, Vector b) {
    return (Vector){sum.low + a.low * b.low, sum.high + a.high * b.high};
}
static inline Vector add(Vector a, Vector b) { return (Vector){a.low + b.low, a.high + b.high}; }
static inline void store_scaled(Vector sum, float by, const float *scales, const float *bias, float *out) {
    (void)by, (void)scales;
    ((Four *)out)[0] = sum.low + ((const Four *)bias)[0], ((Four *)out)[1] = sum.high + ((const Four *)bias)[1];
}
#endif

#else
typedef int8_t Weight;
typedef int16_t Value;
#define LAYOUT_STEP 2

#if defined(__AVX512BW__)
#define STEP 2
#define GROUP 16
#define TILE 12
#define SUMS 24
typedef __m512i Vector;
static inline Vector load_weights(const Weight *p) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)p));
}
static inline Vector broadcast(const Value *p) {
    int32_t pair;
    memcpy(&pair, p, sizeof pair);
    return _mm512_set1_epi32(pair);
}
static inline Vector add(Vector a, Vector b) { return _mm512_add_epi32(a, b); }
static inline Vector zero(void) { return _mm512_setzero_si512(); }
static inline Vector multiply_add(Vector sum, Vector a, Vector b) {
#if defined(__AVX512VNNI__)
    /* Of the intrinsic gcc 12 makes two copies of every sum: 112 instructions for 24 products instead of 46. */
    __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
#else
    return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
#endif
}
/* out = sum * by * scales + bias */
static inline void store_scaled(Vector sum, float by, const float *scales, const float *bias, float *out) {
    __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(_mm512_set1_ps(by), _mm512_loadu_ps(scales)));
    _mm512_storeu_ps(out, _mm512_add_ps(y, _mm512_loadu_ps(bias)));
}
#elif defined(__AVX2__)
#define STEP 2
#define GROUP 8
#define TILE 6
#define SUMS 12
typedef __m256i Vector;
static inline Vector load_weights(const Weight *p) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p)); }
static inline Vector broadcast(const Value *p) {
    int32_t pair;
    memcpy(&pair, p, sizeof pair);
    return _mm256_set1_epi32(pair);
}
static inline Vector add(Vector a, Vector b) { return _mm256_add_epi32(a, b); }
static inline Vector zero(void) { return _mm256_setzero_si256(); }
static inline Vector multiply_add(Vector sum, Vector a, Vector b) {
#if defined(__AVXVNNI__)
    __asm__("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b)); /* as with AVX-512 */
    return sum;
#else
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
#endif
}
static inline void store_scaled(Vector sum, float by, const float *scales, const float *bias, float *out) {
    __m256 y = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(_mm256_set1_ps(by), _mm256_loadu_ps(scales)));
    _mm256_storeu_ps(out, _mm256_add_ps(y, _mm256_loadu_ps(bias)));
}
#elif defined(__SSE4_1__)
#define STEP 2
#define GROUP 8
#define TILE 6
#define SUMS 6
typedef struct { __m128i low, high; } Vector; /* two halves of four */
static inline Vector load_weights(const Weight *p) {
    __m128i weights = _mm_loadu_si128((const __m128i *)p);
    return (Vector){_mm_cvtepi8_epi16(weights), _mm_cvtepi8_epi16(_mm_srli_si128(weights, 8))};
}
static inline Vector broadcast(const Value *p) {
    int32_t pair;
    memcpy(&pair, p, sizeof pair);
    return (Vector){_mm_set1_epi32(pair), _mm_set1_epi32(pair)};
}
static inline Vector add(Vector a, Vector b) {
    return (Vector){_mm_add_epi32(a.low, b.low), _mm_add_epi32(a.high, b.high)};
}
static inline Vector zero(void) { return (Vector){_mm_setzero_si128(), _mm_setzero_si128()}; }
static inline Vector multiply_add(Vector sum, Vector a, Vector b) {
    return add(sum, (Vector){_mm_madd_epi16(a.low, b.low), _mm_madd_epi16(a.high, b.high)});
}
static inline __m128 scaled(__m128i sum, float by, const float *scales, const float *bias) {
    __m128 y = _mm_mul_ps(_mm_cvtepi32_ps(sum), _mm_mul_ps(_mm_set1_ps(by), _mm_loadu_ps(scales)));
    return _mm_add_ps(y, _mm_loadu_ps(bias));
}
static inline void store_scaled(Vector sum, float by, const float *scales, const float *bias, float *out) {
    _mm_storeu_ps(out, scaled(sum.low, by, scales, bias));
    _mm_storeu_ps(out + 4, scaled(sum.high, by, scales + 4, bias + 4));
}
#else
#define GROUP 8
#define TILE 6
#if defined(__ARM_FEATURE_DOTPROD)
#define BYTES /* packed activations are bytes, see `pack_row` */
#define STEP 4
#define SUMS 6
/* Sums of the upper bytes of the activations and of the lower ones, each as two halves of four output channels. */
typedef struct { int32x4_t upper[2], lower[2]; } Vector;
/* (8 output channels, 4 inputs) from two pairs of inputs, in `upper` */
static inline Vector load_weights(const Weight *p) {
    int16x8_t first = vreinterpretq_s16_s8(vld1q_s8(p)), second = vreinterpretq_s16_s8(vld1q_s8(p + LAYOUT_STEP * PANEL));
    Vector out = {{vreinterpretq_s32_s16(vzip1q_s16(first, second)), vreinterpretq_s32_s16(vzip2q_s16(first, second))},
                  {vdupq_n_s32(0), vdupq_n_s32(0)}};
    return out;
}
/* The upper bytes of 4 inputs in upper[0], their lower bytes in lower[0], for each output channel. */
static inline Vector broadcast(const Value *p) {
    int32_t bytes[2];
    memcpy(bytes, p, sizeof bytes);
    Vector out = {{vdupq_n_s32(bytes[0]), vdupq_n_s32(0)}, {vdupq_n_s32(bytes[1]), vdupq_n_s32(0)}};
    return out;
}
static inline Vector zero(void) {
    Vector out = {{vdupq_n_s32(0), vdupq_n_s32(0)}, {vdupq_n_s32(0), vdupq_n_s32(0)}};
    return out;
}
static inline int32x4_t dot(int32x4_t sum, int32x4_t a, int32x4_t b) {
    return vdotq_s32(sum, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b));
}
static inline Vector multiply_add(Vector sum, Vector value, Vector weight) {
    for (int half = 0; half < 2; half++) {
        sum.upper[half] = dot(sum.upper[half], value.upper[0], weight.upper[half]);
        sum.lower[half] = dot(sum.lower[half], value.lower[0], weight.upper[half]);
    }
    return sum;
}
static inline Vector add(Vector a, Vector b) {
    for (int half = 0; half < 2; half++) {
        a.upper[half] = vaddq_s32(a.upper[half], b.upper[half]);
        a.lower[half] = vaddq_s32(a.lower[half], b.lower[half]);
    }
    return a;
}
static inline int32x4_t total(Vector sum, int half) {
    return vaddq_s32(vshlq_n_s32(sum.upper[half], 8), sum.lower[half]);
}
#else
#define STEP 2
#define SUMS 12
typedef struct { int32x4_t half[2]; } Vector;
/* In half[0] the first input of 8 output channels, in half[1] their second; both in 16 bits. */
static inline Vector load_weights(const Weight *p) {
    int8x8x2_t inputs = vld2_s8(p);
    Vector out = {{vreinterpretq_s32_s16(vmovl_s8(inputs.val[0])), vreinterpretq_s32_s16(vmovl_s8(inputs.val[1]))}};
    return out;
}
static inline Vector broadcast(const Value *p) {
    Vector out = {{vreinterpretq_s32_s16(vdupq_n_s16(p[0])), vreinterpretq_s32_s16(vdupq_n_s16(p[1]))}};
    return out;
}
static inline Vector zero(void) {
    Vector out = {{vdupq_n_s32(0), vdupq_n_s32(0)}};
    return out;
}
static inline Vector multiply_add(Vector sum, Vector value, Vector weight) {
    for (int input = 0; input < 2; input++) {
        int16x8_t a = vreinterpretq_s16_s32(value.half[input]), b = vreinterpretq_s16_s32(weight.half[input]);
        sum.half[0] = vmlal_s16(sum.half[0], vget_low_s16(a), vget_low_s16(b));
        sum.half[1] = vmlal_high_s16(sum.half[1], a, b);
    }
    return sum;
}
static inline Vector add(Vector a, Vector b) {
    Vector out = {{vaddq_s32(a.half[0], b.half[0]), vaddq_s32(a.half[1], b.half[1])}};
    return out;
}
static inline int32x4_t total(Vector sum, int half) { return sum.half[half]; }
#endif
static inline void store_scaled(Vector sum, float by, const float *scales, const float *bias, float *out) {
    for (int half = 0; half < 2; half++) {
        const float32x4_t factor = vmulq_n_f32(vld1q_f32(scales + 4 * half), by);
        float32x4_t y = vmulq_f32(vcvtq_f32_s32(total(sum, half)), factor);
        vst1q_f32(out + 4 * half, vaddq_f32(y, vld1q_f32(bias + 4 * half)));
    }
}
#endif

#endif
