/* Runs one call of the kernels in a process of another architecture: reads it on stdin, writes the changed memory on
   stdout. Written and read by emulated.py.

   Call: int32 function, int32 regions, then of each region uint64 address, uint64 bytes, int32 is_struct,
   int32 is_changed, the bytes; then twelve int64 arguments. Addresses are the caller's: words of structs and arguments
   that point into a region are changed to where the region is here. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void streamcap_layers(const void *, const void *, float *, float *, void *, int, int64_t);
void streamcap_linear(const void *, const void *, const float *, const float *, float, const float *, int, float *,
                      void *, int, float *);

typedef struct {
    uint64_t address, bytes;
    int32_t is_struct, is_changed;
    char *here;
} Region;

static void take(void *to, size_t bytes) {
    if (fread(to, 1, bytes, stdin) != bytes) exit(3);
}

static int64_t moved(const Region *regions, int count, uint64_t word) {
    for (int i = 0; i < count; i++)
        if (word >= regions[i].address && word < regions[i].address + regions[i].bytes)
            return (int64_t)(intptr_t)(regions[i].here + (word - regions[i].address));
    return (int64_t)word;
}

int main(void) {
    int32_t head[2];
    take(head, sizeof head);
    Region *regions = calloc(head[1], sizeof *regions);
    for (int i = 0; i < head[1]; i++) {
        take(regions + i, 24);
        regions[i].here = aligned_alloc(64, (regions[i].bytes + 63) / 64 * 64);
        take(regions[i].here, regions[i].bytes);
    }
    int64_t a[12];
    take(a, sizeof a);
    for (int i = 0; i < head[1]; i++)
        for (uint64_t at = 0; regions[i].is_struct && at < regions[i].bytes; at += 8) {
            uint64_t word;
            memcpy(&word, regions[i].here + at, 8);
            word = moved(regions, head[1], word);
            memcpy(regions[i].here + at, &word, 8);
        }
    for (int i = 0; i < 12; i++) a[i] = moved(regions, head[1], a[i]);
    float epsilon;
    memcpy(&epsilon, a + 4, sizeof epsilon);
#define P(i) ((void *)(intptr_t)a[i])
    if (head[0])
        streamcap_layers(P(0), P(1), P(2), P(3), P(4), (int)a[5], a[6]);
    else
        streamcap_linear(P(0), P(1), P(2), P(3), epsilon, P(5), (int)a[6], P(7), P(8), (int)a[9], P(10));
    for (int i = 0; i < head[1]; i++)
        if (regions[i].is_changed) fwrite(regions[i].here, 1, regions[i].bytes, stdout);
    return 0;
}
