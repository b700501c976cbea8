/* Small convolutions in float32: im2col, then a matmul. Alone, or those of an encoder in one call. */
#include "matmul.h"

#define MAX_ROW_PAD 48 /* floats that a packed patch may need beyond its inputs; ROW_PAD in packed.py */

typedef struct {
    int32_t batch, height, width, channels; /* input: (batch, height, width, channels) */
    int32_t down, across;                   /* output: (batch, down, across, linear->out) */
    int32_t kernel, stride, before;         /* before: rows and columns of zero padding above and on the left */
} Grid;

typedef struct {
    Linear linear;
    Grid grid;
    const float *x, *add; /* add: as large as `out`, added before ReLU; may be `out` itself; or NULL */
    float *out;
    int32_t relu, block;
} Convolution;

/* im2col for one output pixel: its input patch (kernel, kernel, channels), zero-padded to `in` values. */
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

/* Patch `i` of the `rows` from pixel `first` on, packed for their matmul. */
static void pack_patch(const Grid *grid, const float *x, int first, int i, int rows, int in, float *patches) {
    if (rows <= TILE) {
        gather(grid, x, first + i, in, patches + (int64_t)i * (in + ROW_PAD));
        return;
    }
    float patch[in];
    gather(grid, x, first + i, in, patch);
    pack_in_blocks(patch, in, i, rows, patches);
}

/* Convolution in blocks of `block` output pixels, added to `out` if `residual`, then ReLU if `relu`.
   scratch: threads * block * (linear->in + MAX_ROW_PAD) floats. */
void streamcap_convolve(const Linear *linear, const Grid *grid, const float *x, int residual, int relu, float *scratch,
                        int block, int threads, float *out) {
    int in = linear->in, pixels = grid->batch * grid->down * grid->across;
    int blocks = (pixels + block - 1) / block, panels = (linear->out + PANEL - 1) / PANEL;
    int shared = blocks < threads; /* threads share the panels of one block; else each thread takes whole blocks */
    int32_t next_panel[blocks];
    float ones[block];
    memset(next_panel, 0, sizeof next_panel);
    for (int i = 0; i < block; i++) ones[i] = 1.0f;
#pragma omp parallel num_threads(threads)
    {
        int me = omp_get_thread_num(), team = omp_get_num_threads(); /* OpenMP may start fewer than requested */
        float *patches = scratch + (shared ? 0 : (int64_t)me * block * (in + MAX_ROW_PAD));
        for (int b = shared ? 0 : me; b < blocks; b += shared ? 1 : team) {
            int first = b * block, rows = pixels - first < block ? pixels - first : block;
            float *to = out + (int64_t)first * linear->out;
            if (shared) {
#pragma omp for schedule(static)
                for (int i = 0; i < rows; i++) pack_patch(grid, x, first, i, rows, in, patches);
                matmul(linear, linear, patches, ones, rows, residual, relu ? RELU : -1, next_panel + b, to);
                continue;
            }
            for (int i = 0; i < rows; i++) pack_patch(grid, x, first, i, rows, in, patches);
            const int64_t panel_bytes = (int64_t)PANEL * in * (int64_t)sizeof(float);
            for (int p = 0; p < panels; p++) {
                const float *next = linear->qweight + (p + 1 < panels ? (int64_t)(p + 1) * PANEL * in : 0);
                panel_matmul(linear, patches, ones, rows, 0, rows, p, next, panel_bytes, residual, to);
            }
            if (relu) activate(to, rows * linear->out, RELU);
        }
    }
}

/* `count` convolutions in order. scratch: as for the one of them that needs most. */
void streamcap_convolutions(const Convolution *all, int count, float *scratch, int threads) {
    for (int i = 0; i < count; i++) {
        const Convolution *one = all + i;
        const Grid *grid = &one->grid;
        if (one->add && one->add != one->out)
            memcpy(one->out, one->add,
                   (size_t)grid->batch * grid->down * grid->across * one->linear.out * sizeof(float));
        streamcap_convolve(&one->linear, grid, one->x, one->add != NULL, one->relu, scratch, one->block, threads,
                           one->out);
    }
}
