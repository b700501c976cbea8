/* AVX2 without VNNI: unsigned bytes times signed bytes (vpmaddubsw), for layers whose activations have at most
   MAX_BYTE. Half as many instructions as pairs of 16-bit numbers take.

   An activation is stored as byte + 128; 128 × the sum of a channel's weights is taken off again, so that sums are the
   same integers as on every other processor. Products of four inputs are added in 16 bits: `PackedLinear` scales such
   weights so that they fit. */
#pragma once
#include "vectors.h"

#define BYTE_TILE 5 /* rows in one tile */
#define BYTE_OFFSET 128
#define AHEAD (PREFETCH_BYTES / PANEL) /* inputs between the weights that are used and those that are prefetched */

/* Bytes instead of 16-bit numbers in `out`, in place. */
static inline void to_bytes(Value *out, int count) {
    uint8_t *bytes = (uint8_t *)out;
    for (int i = 0; i < count; i++) bytes[i] = (uint8_t)(out[i] + BYTE_OFFSET);
}

static inline __m256i four_inputs(const uint8_t *p) {
    int32_t inputs;
    memcpy(&inputs, p, sizeof inputs);
    return _mm256_set1_epi32(inputs);
}

/* sum + the products of 8 inputs, 4 each from a and b, with the weights of 8 output channels */
static inline __m256i add_products(__m256i sum, __m256i a, __m256i weights_a, __m256i b, __m256i weights_b) {
    __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(a, weights_a), _mm256_maddubs_epi16(b, weights_b));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* 16 output channels of a panel, as `tile` in matmul.h. */
static inline __attribute__((always_inline)) void byte_tile(const Weight *qweight, const Weight *next, const uint8_t *x,
                                                            int64_t stride, int in, const int rows,
                                                            const float *x_scales, const float *scales,
                                                            const float *bias, const int32_t *offsets, float *out) {
    /* Channels 0 to 3 and 8 to 11; 4 to 7 and 12 to 15: as they lie after pairs of inputs are joined to fours. */
    __m256i outer[BYTE_TILE], inner[BYTE_TILE];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) outer[r] = inner[r] = _mm256_setzero_si256();
    const int split = in - AHEAD;
    for (int k = 0; k < in; k += 8) {
        const __m256i *p = (const __m256i *)(qweight + (int64_t)k * PANEL);
        const Weight *ahead = k < split ? qweight + (int64_t)(k + AHEAD) * PANEL : next + (int64_t)(k - split) * PANEL;
        __m256i pairs[4], first[2], second[2];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            pairs[i] = _mm256_loadu_si256(p + 2 * i);
            _mm_prefetch((const char *)ahead + 64 * i, _MM_HINT_T0);
        }
        first[0] = _mm256_unpacklo_epi16(pairs[0], pairs[1]), first[1] = _mm256_unpackhi_epi16(pairs[0], pairs[1]);
        second[0] = _mm256_unpacklo_epi16(pairs[2], pairs[3]), second[1] = _mm256_unpackhi_epi16(pairs[2], pairs[3]);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            __m256i a = four_inputs(x + r * stride + k), b = four_inputs(x + r * stride + k + 4);
            outer[r] = add_products(outer[r], a, first[0], b, second[0]);
            inner[r] = add_products(inner[r], a, first[1], b, second[1]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) {
            __m256i sum = v ? _mm256_permute2x128_si256(outer[r], inner[r], 0x31)
                            : _mm256_permute2x128_si256(outer[r], inner[r], 0x20);
            sum = _mm256_sub_epi32(sum, _mm256_loadu_si256((const __m256i *)(offsets + v * GROUP)));
            store_scaled(sum, x_scales[r], scales + v * GROUP, bias + v * GROUP, out + r * PANEL + v * GROUP);
        }
}

#define BYTE_CASE(n) \
    case n: \
        for (int c = 0; c < PANEL; c += 2 * GROUP) \
            byte_tile(qweight + c * LAYOUT_STEP, next, x, stride, in, n, x_scales, scales + c, bias + c, offsets + c, \
                      out + c); \
        break;

/* One panel for 1 to BYTE_TILE rows. */
static inline void byte_tiles(const Weight *qweight, const Weight *next, const uint8_t *x, int64_t stride, int in,
                              int rows, const float *x_scales, const float *scales, const float *bias,
                              const int32_t *offsets, float *out) {
    switch (rows) {
        BYTE_CASE(1) BYTE_CASE(2) BYTE_CASE(3) BYTE_CASE(4) BYTE_CASE(5)
    }
}
