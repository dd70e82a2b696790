/* The floor of `serving.py`: a loop over the same flat arrays that kernel.c walks, written for the one kind of node, nothing
 * around it. Both functions walk once over `rows` rows of slots (and codes) and return the nanoseconds that a row took.
 */
#include <stdint.h>
#include <time.h>

typedef struct { float threshold; uint16_t slot, step; } node;
typedef struct { float threshold; uint32_t slot, step, set; } wide;
typedef struct { int64_t root, target; } tree;

#define LOOP(NAME, NODE, FIRST)                                                                                          \
    double NAME(const NODE *nodes, const tree *trees, int64_t count, const float *slots, const uint32_t *codes,          \
                const uint32_t *sets, int64_t width, int64_t rows, float *out)                                           \
    {                                                                                                                    \
        struct timespec a, b;                                                                                            \
        clock_gettime(CLOCK_MONOTONIC, &a);                                                                              \
        for (int64_t r = 0; r < rows; r++) {                                                                             \
            const float *x = slots + r * width;                                                                          \
            const uint32_t *c = codes + r * width;                                                                       \
            double sum = 0.0;                                                                                            \
            (void)c, (void)sets;                                                                                         \
            for (const tree *t = trees; t < trees + count; t += 8) {                                                     \
                const NODE *p[8];                                                                                        \
                for (int l = 0; l < 8; l++) p[l] = nodes + t[l].root;                                                    \
                const NODE *p0 = p[0], *p1 = p[1], *p2 = p[2], *p3 = p[3], *p4 = p[4], *p5 = p[5], *p6 = p[6], *p7 = p[7]; \
                int64_t moved;                                                                                           \
                do {                                                                                                     \
                    moved = 0;                                                                                           \
                    FIRST(p0) FIRST(p1) FIRST(p2) FIRST(p3) FIRST(p4) FIRST(p5) FIRST(p6) FIRST(p7)                      \
                } while (moved);                                                                                         \
                sum += p0->threshold; sum += p1->threshold; sum += p2->threshold; sum += p3->threshold;                  \
                sum += p4->threshold; sum += p5->threshold; sum += p6->threshold; sum += p7->threshold;                  \
            }                                                                                                            \
            out[r] = (float)sum;                                                                                         \
        }                                                                                                                \
        clock_gettime(CLOCK_MONOTONIC, &b);                                                                              \
        return ((b.tv_sec - a.tv_sec) * 1e9 + (b.tv_nsec - a.tv_nsec)) / (double)rows;                                   \
    }

#define NUMBER(p) { const node n = *p; const int64_t s = n.step + !(x[n.slot] <= n.threshold); p += s; moved |= s; }
#define SET(p)                                                                                                           \
    {                                                                                                                    \
        const wide n = *p;                                                                                               \
        const uint32_t k = c[n.slot];                                                                                    \
        const int64_t s = n.step + !((x[n.slot] <= n.threshold) | ((sets[n.set + (k >> 5)] >> (k & 31)) & 1));           \
        p += s;                                                                                                          \
        moved |= s;                                                                                                      \
    }

LOOP(floor_numbers, node, NUMBER)
LOOP(floor_sets, wide, SET)
