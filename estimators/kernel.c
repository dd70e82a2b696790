/* The compiled engine: runs the operations that compiled.py lays out over flat arrays, for one row or many.
 *
 * C99 with the vector types of GCC and Clang, and no library but libc. A row's bits do not hang on the rows beside it: every
 * sum runs in one order. The second half of this file is compiled twice on x86-64, plain and for AVX2 with FMA; which one
 * runs is decided by the processor at the first call.
 */
#ifndef BODY

#include <stdint.h>
#include <string.h>

typedef float vector __attribute__((vector_size(32), aligned(4), may_alias));
enum { LANES = 8, PANEL = 32, VECTORS = PANEL / 8 };

/* A split, or a leaf, which has its value as the threshold and leads to itself. A split's children stand side by side,
 * `step` nodes on; the second is taken where the slot's number is greater than the threshold, or NaN. */
typedef struct { float threshold; uint16_t slot, step; } narrow;
/* The same for large trees and for category sets: the first child is also taken where bit code[slot] of the set is 1. */
typedef struct { float threshold; uint32_t slot, step, set; } wide;
/* A target of -1: a leaf has several numbers, and its threshold's bits are the number of its row of them. */
typedef struct { int64_t root, target; } tree;

typedef struct {
    int64_t kind, left, right, out, width, inner, count, flags, temporary;
    const void *a, *b, *c, *d, *e, *f, *g;
    double alpha, beta;
} operation;
typedef struct { int64_t offset, stride; } place;
typedef struct {
    const operation *operations;
    const place *places; /* of the values, in floats: times the block in the scratch memory; value 0 is x */
    int64_t count, output, outputs, block, temporary;
} program;
typedef struct call { const program *what; const float *x; float *y; float *scratch; int64_t rows; } call;

enum {
    NARROW, WIDE, SETS, GEMM, DOT, GATHER, FILL, COPY, SOFTMAX,
    ADD = 16, SUB, MUL, DIV, MAX, MIN, POW,
    NEG = 32, RELU, SELU, SIGMOID, CLIP, EXP, TANH, RECIPROCAL, SQRT, ABS, LEAKY, ELU,
};

#define BODY
#define NAME(name) name##_plain
#include __FILE__
#undef NAME
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2")
#endif
#define NAME(name) name##_avx2
#include __FILE__
#undef NAME
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

/* 0, or 1 + the number of an operation that is not known. */
int64_t kernel_run(const call *c)
{
#if defined(__x86_64__)
    static int better = -1;
    if (better < 0) better = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    if (better) return run_avx2(c);
#endif
    return run_plain(c);
}

/* The bytes of the structures, so that compiled.py can see that it lays out the same. */
void kernel_sizes(int64_t *sizes)
{
    const int64_t all[] = {sizeof(narrow), sizeof(wide), sizeof(tree), sizeof(operation), sizeof(place), sizeof(program), sizeof(call)};
    memcpy(sizes, all, sizeof(all));
}

#else /* the half that is compiled for each kind of processor */

#define INLINE static inline __attribute__((always_inline))

/* -- functions of one number, without branches ----------------------------------------------------------------------- */

/* e^x by Cody and Waite's reduction and the polynomial of Cephes' expf, within 2 units in the last place. */
INLINE float NAME(exponential)(float x)
{
    union { float f; int32_t i; } scale;
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.72f ? 88.72f : x;
    const float k = (x * 1.44269504088896341f + 12582912.0f) - 12582912.0f; /* to the nearest whole number */
    const float r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    scale.i = ((int32_t)k + 126) << 23; /* in two steps: 2^128 alone would be beyond float32 */
    return p * scale.f * 2.0f;
}

INLINE float NAME(tangent)(float x)
{
    const float e = NAME(exponential)(-2.0f * (x < 0 ? -x : x)), t = (1.0f - e) / (1.0f + e);
    return x < 0 ? -t : t;
}

/* x^y as 2^(y log2 x), in doubles: what is rounded is the answer. log x is that of its mantissa, between sqrt(1/2) and sqrt(2), by
 * the series of 2 atanh((m - 1) / (m + 1)), to 2e-14; e^r is its own, between -log(2)/2 and log(2)/2, to 1e-11. */
INLINE float NAME(power)(float x, float y)
{
    union { double f; int64_t i; } part, scale;
    const float size = __builtin_fabsf(x), infinite = __builtin_inff();
    part.f = size == size ? size : 1.0f;
    const int64_t e = (part.i - 0x3fe6a09e667f3bcdLL) >> 52;
    part.i -= e * (1LL << 52);
    const double s = (part.f - 1.0) / (part.f + 1.0), q = s * s;
    double l = 1.0 / 15;
    l = l * q + 1.0 / 13;
    l = l * q + 1.0 / 11;
    l = l * q + 1.0 / 9;
    l = l * q + 1.0 / 7;
    l = l * q + 1.0 / 5;
    l = l * q + 1.0 / 3;
    l = 2.0 * s * (l * q + 1.0);
    double t = y * (e + l * 1.4426950408889634074);
    t = !(t > -160.0) ? -160.0 : t > 160.0 ? 160.0 : t;
    const double k = (t + 6755399441055744.0) - 6755399441055744.0, r = (t - k) * 0.69314718055994530942;
    double p = 1.0 / 362880;
    p = p * r + 1.0 / 40320;
    p = p * r + 1.0 / 5040;
    p = p * r + 1.0 / 720;
    p = p * r + 1.0 / 120;
    p = p * r + 1.0 / 24;
    p = p * r + 1.0 / 6;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    scale.i = ((int64_t)k + 1023) << 52;
    float found = (float)(p * scale.f);
    const int64_t large = !(y > -16777216.0f && y < 16777216.0f), whole = large ? 0 : (int64_t)y; /* large ones are even */
    const int64_t is = large || (float)whole == y;
    found = size == 0.0f ? (y > 0.0f ? 0.0f : infinite) : size == infinite ? (y > 0.0f ? infinite : 0.0f) : found;
    found = size == 1.0f ? 1.0f : found;
    found = x < 0.0f && !is && size < infinite ? __builtin_nanf("") : found;
    found = __builtin_signbit(x) && is && (whole & 1) ? -found : found;
    return y == 0.0f || x == 1.0f ? 1.0f : x != x ? x : y != y ? y : found;
}

/* -- trees ----------------------------------------------------------------------------------------------------------- */

/* What the splits compare: the columns that they name, `apart` floats from one to the next. Kind 1: -inf for NaN (missing
 * takes the first child). Kind 2: a category column, for which the set decides: NaN, and its code, two past the last where it is
 * -1, that of a missing cell, and one past it where it is none. Slot `count` is -inf, which takes a leaf to itself. */
INLINE void NAME(slots)(const operation *o, const float *x, float *slot, uint32_t *code, int64_t apart)
{
    const int32_t *column = o->b, *kind = o->c, *last = o->d;
    const int64_t count = o->count;
    for (int64_t i = 0; i < count; i++) {
        const float v = x[column[i]];
        const float other = (kind[i] & 2) ? __builtin_nanf("") : v;
        slot[i * apart] = (kind[i] & 1) && v != v ? -__builtin_inff() : other;
    }
    slot[count * apart] = -__builtin_inff();
    if (!code) return;
    for (int64_t i = 0; i < count; i++) {
        const float v = x[column[i]];
        const int inside = (kind[i] & 2) && v >= 0 && v <= (float)last[i];
        const uint32_t whole = inside ? (uint32_t)v : 0;
        const uint32_t none = (uint32_t)last[i] + 1 + (v == -1.0f);
        code[i * apart] = !(kind[i] & 2) ? 0 : inside && (float)whole == v ? whole : none;
    }
    code[count * apart] = 0;
}

INLINE int64_t NAME(step_narrow)(const narrow **p, const float *slot, const uint32_t *code, const uint32_t *sets, int64_t apart)
{
    const narrow at = **p;
    const int64_t next = at.step + !(slot[at.slot * apart] <= at.threshold);
    (void)code, (void)sets;
    *p += next;
    return next;
}

INLINE int64_t NAME(step_wide)(const wide **p, const float *slot, const uint32_t *code, const uint32_t *sets, int64_t apart)
{
    const wide at = **p;
    const int64_t next = at.step + !(slot[at.slot * apart] <= at.threshold);
    (void)code, (void)sets;
    *p += next;
    return next;
}

INLINE int64_t NAME(step_sets)(const wide **p, const float *slot, const uint32_t *code, const uint32_t *sets, int64_t apart)
{
    const wide at = **p;
    const uint32_t c = code[at.slot * apart];
    const int first = (slot[at.slot * apart] <= at.threshold) | ((sets[at.set + (c >> 5)] >> (c & 31)) & 1);
    const int64_t next = at.step + !first;
    *p += next;
    return next;
}

INLINE void NAME(add_leaf)(const operation *o, int64_t target, float threshold, double *sum)
{
    if (target >= 0) {
        sum[target] += threshold;
        return;
    }
    union { float f; int32_t i; } leaf = {threshold};
    const float *values = (const float *)o->g + (int64_t)leaf.i * o->width;
    for (int64_t j = 0; j < o->width; j++) sum[j] += values[j];
}

/* One row through LANES trees at a time, or LANES rows through one tree at a time, so that the loads overlap, until nothing
 * has moved. */
#define WALKERS(VARIANT, NODE)                                                                                           \
    INLINE void NAME(walk_##VARIANT)(const NODE **p, const float *slot, const uint32_t *code,              \
                                     const uint32_t *sets, int64_t apart, int64_t lane)                                  \
    {                                                                                                                    \
        const NODE *q0 = p[0], *q1 = p[1], *q2 = p[2], *q3 = p[3], *q4 = p[4], *q5 = p[5], *q6 = p[6], *q7 = p[7];       \
        int64_t moved = 1;                                                                                               \
        while (moved) {                                                                                                  \
            moved = NAME(step_##VARIANT)(&q0, slot, code, sets, apart);                                                  \
            moved |= NAME(step_##VARIANT)(&q1, slot + lane, code + lane, sets, apart);                                   \
            moved |= NAME(step_##VARIANT)(&q2, slot + 2 * lane, code + 2 * lane, sets, apart);                           \
            moved |= NAME(step_##VARIANT)(&q3, slot + 3 * lane, code + 3 * lane, sets, apart);                           \
            moved |= NAME(step_##VARIANT)(&q4, slot + 4 * lane, code + 4 * lane, sets, apart);                           \
            moved |= NAME(step_##VARIANT)(&q5, slot + 5 * lane, code + 5 * lane, sets, apart);                           \
            moved |= NAME(step_##VARIANT)(&q6, slot + 6 * lane, code + 6 * lane, sets, apart);                           \
            moved |= NAME(step_##VARIANT)(&q7, slot + 7 * lane, code + 7 * lane, sets, apart);                           \
        }                                                                                                                \
        p[0] = q0, p[1] = q1, p[2] = q2, p[3] = q3, p[4] = q4, p[5] = q5, p[6] = q6, p[7] = q7;                          \
    }                                                                                                                    \
    static void NAME(row_##VARIANT)(const operation *o, const float *slot, const uint32_t *code, double *sum)            \
    {                                                                                                                    \
        const NODE *nodes = o->a, *p[LANES];                                                                             \
        const tree *trees = o->f;                                                                                        \
        for (const tree *t = trees; t < trees + o->inner; t += LANES) {                                                  \
            for (int l = 0; l < LANES; l++) p[l] = nodes + t[l].root;                                                    \
            NAME(walk_##VARIANT)(p, slot, code, o->e, 1, 0);                                                \
            for (int l = 0; l < LANES; l++) NAME(add_leaf)(o, t[l].target, p[l]->threshold, sum);                        \
        }                                                                                                                \
    }                                                                                                                    \
    static void NAME(rows_##VARIANT)(const operation *o, const float *slot, const uint32_t *code, double *sum)           \
    {                                                                                                                    \
        const NODE *nodes = o->a, *p[LANES];                                                                             \
        const tree *trees = o->f;                                                                                        \
        for (const tree *t = trees; t < trees + o->inner; t++) {                                                         \
            for (int l = 0; l < LANES; l++) p[l] = nodes + t->root;                                                      \
            NAME(walk_##VARIANT)(p, slot, code, o->e, LANES, 1);                                               \
            for (int l = 0; l < LANES; l++) NAME(add_leaf)(o, t->target, p[l]->threshold, sum + l * o->width);           \
        }                                                                                                                \
    }

WALKERS(narrow, narrow)
WALKERS(wide, wide)
WALKERS(sets, wide)

static void NAME(trees)(const operation *o, const float *x, int64_t xs, float *y, int64_t ys, int64_t rows, float *temporary)
{
    const int64_t size = LANES * (o->count + 1), width = o->width;
    double *sum = (double *)temporary;
    float *slot = temporary + 2 * LANES * width;
    uint32_t *code = o->kind == SETS ? (uint32_t *)(slot + size) : 0;
    const float *base = o->flags ? (const float *)o->g + o->flags : 0;
    for (int64_t i = 0; i < rows;) {
        const int64_t lanes = rows - i >= LANES ? LANES : 1;
        memset(sum, 0, (size_t)(lanes * width) * sizeof(double));
        for (int64_t l = 0; l < lanes; l++)
            NAME(slots)(o, x + (i + l) * xs, slot + l, code ? code + l : 0, lanes);
        if (lanes == 1) {
            if (o->kind == NARROW) NAME(row_narrow)(o, slot, code, sum);
            else if (o->kind == WIDE) NAME(row_wide)(o, slot, code, sum);
            else NAME(row_sets)(o, slot, code, sum);
        } else {
            if (o->kind == NARROW) NAME(rows_narrow)(o, slot, code, sum);
            else if (o->kind == WIDE) NAME(rows_wide)(o, slot, code, sum);
            else NAME(rows_sets)(o, slot, code, sum);
        }
        for (int64_t l = 0; l < lanes; l++)
            for (int64_t j = 0; j < width; j++)
                y[(i + l) * ys + j] = (float)(sum[l * width + j] * o->alpha + (base ? base[j] : 0.0f));
        i += lanes;
    }
}

/* -- products with constant matrices ---------------------------------------------------------------------------------- */

/* The products of `rows` rows with `panels` panels of PANEL columns; `rows` x `panels` is known when it is inlined. */
INLINE void NAME(tile)(const operation *o, const float *x, int64_t xs, float *y, int64_t ys, int64_t panel, int rows, int panels)
{
    const int64_t inner = o->inner;
    const float *w = (const float *)o->a + panel * inner * PANEL, *bias = (const float *)o->b + panel * PANEL;
    vector sum[3][2 * VECTORS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < panels * VECTORS; v++) sum[r][v] = *(const vector *)(bias + 8 * v);
    for (int64_t i = 0; i < inner; i++)
        for (int r = 0; r < rows; r++) {
            const float f = x[r * xs + i];
            const vector all = {f, f, f, f, f, f, f, f};
            for (int p = 0; p < panels; p++)
                for (int v = 0; v < VECTORS; v++)
                    sum[r][p * VECTORS + v] += all * *(const vector *)(w + (p * inner + i) * PANEL + 8 * v);
        }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < panels * VECTORS; v++) *(vector *)(y + r * ys + panel * PANEL + 8 * v) = sum[r][v];
}

static void NAME(gemm)(const operation *o, const float *x, int64_t xs, float *y, int64_t ys, int64_t rows)
{
    int64_t panel = 0;
    if (rows < 3) {
        for (; panel + 2 <= o->count; panel += 2)
            for (int64_t i = 0; i < rows; i++) NAME(tile)(o, x + i * xs, xs, y + i * ys, ys, panel, 1, 2);
    }
    for (; panel < o->count; panel++) {
        int64_t i = 0;
        for (; i + 3 <= rows; i += 3) NAME(tile)(o, x + i * xs, xs, y + i * ys, ys, panel, 3, 1);
        for (; i < rows; i++) NAME(tile)(o, x + i * xs, xs, y + i * ys, ys, panel, 1, 1);
    }
}

/* Few outputs: the weights of each stand together. */
static void NAME(dot)(const operation *o, const float *x, int64_t xs, float *y, int64_t ys, int64_t rows)
{
    const int64_t inner = o->inner;
    for (int64_t i = 0; i < rows; i++, x += xs, y += ys)
        for (int64_t j = 0; j < o->width; j++) {
            const float *w = (const float *)o->a + j * inner;
            vector first = {0}, second = {0};
            int64_t k = 0;
            for (; k + 16 <= inner; k += 16) {
                first += *(const vector *)(x + k) * *(const vector *)(w + k);
                second += *(const vector *)(x + k + 8) * *(const vector *)(w + k + 8);
            }
            double sum = ((const float *)o->b)[j];
            for (int v = 0; v < 8; v++) sum += (double)first[v] + (double)second[v];
            for (; k < inner; k++) sum += (double)x[k] * w[k];
            y[j] = (float)sum;
        }
}

/* -- element by element ------------------------------------------------------------------------------------------------ */

#define EACH(EXPRESSION)                                                                                                 \
    for (int64_t i = 0; i < rows; i++, x += xs, z += zs, y += ys) {                                                      \
        if (!(o->flags & 3)) {                                                                                           \
            for (int64_t j = 0; j < width; j++) { const float l = x[j], r = z[j]; y[j] = EXPRESSION; }                   \
        } else {                                                                                                         \
            const int64_t p = !(o->flags & 1), q = !(o->flags & 2); /* one number for the whole row */                   \
            for (int64_t j = 0; j < width; j++) { const float l = x[j * p], r = z[j * q]; y[j] = EXPRESSION; }           \
        }                                                                                                                \
    }                                                                                                                    \
    return 0

static int64_t NAME(binary)(const operation *o, const float *x, int64_t xs, const float *z, int64_t zs, float *y, int64_t ys, int64_t rows)
{
    const int64_t width = o->width;
    switch (o->kind) {
    case ADD: EACH(l + r);
    case SUB: EACH(l - r);
    case MUL: EACH(l * r);
    case DIV: EACH(l / r);
    case MAX: EACH(l > r || l != l ? l : r);
    case MIN: EACH(l < r || l != l ? l : r);
    case POW: EACH(NAME(power)(l, r));
    }
    return 1;
}
#undef EACH

#define EACH(EXPRESSION)                                                                                                 \
    for (int64_t i = 0; i < rows; i++, x += xs, y += ys)                                                                 \
        for (int64_t j = 0; j < width; j++) { const float v = x[j]; y[j] = EXPRESSION; }                                 \
    return 0

static int64_t NAME(unary)(const operation *o, const float *x, int64_t xs, float *y, int64_t ys, int64_t rows)
{
    const int64_t width = o->width;
    const float a = (float)o->alpha, b = (float)o->beta;
    switch (o->kind) {
    case NEG: EACH(-v);
    case RELU: EACH(v < 0.0f ? 0.0f : v);
    case SELU: EACH(v != v ? v : b * (v > 0.0f ? v : a * (NAME(exponential)(v) - 1.0f)));
    case ELU: EACH(v != v ? v : v > 0.0f ? v : a * (NAME(exponential)(v) - 1.0f));
    case LEAKY: EACH(v < 0.0f ? a * v : v);
    case SIGMOID: EACH(v != v ? v : 1.0f / (1.0f + NAME(exponential)(-v)));
    case CLIP: EACH(v < a ? a : v > b ? b : v);
    case EXP: EACH(v != v ? v : v > 88.72f ? __builtin_inff() : NAME(exponential)(v));
    case TANH: EACH(v != v ? v : NAME(tangent)(v));
    case RECIPROCAL: EACH(1.0f / v);
    case SQRT: EACH(__builtin_sqrtf(v));
    case ABS: EACH(v < 0.0f ? -v : v);
    }
    return 1;
}
#undef EACH

static void NAME(softmax)(int64_t width, const float *x, int64_t xs, float *y, int64_t ys, int64_t rows)
{
    for (int64_t i = 0; i < rows; i++, x += xs, y += ys) {
        float top = x[0];
        double sum = 0.0;
        for (int64_t j = 1; j < width; j++) top = x[j] > top ? x[j] : top;
        for (int64_t j = 0; j < width; j++) sum += y[j] = x[j] - top < -87.0f ? 0.0f : NAME(exponential)(x[j] - top);
        for (int64_t j = 0; j < width; j++) y[j] = (float)(y[j] / sum);
    }
}

/* -- the program ------------------------------------------------------------------------------------------------------- */

static int64_t NAME(run)(const call *c)
{
    const program *p = c->what;
    float *values = c->scratch + p->temporary;
    for (int64_t start = 0; start < c->rows; start += p->block) {
        const int64_t rows = c->rows - start < p->block ? c->rows - start : p->block;
        const float *input = c->x + start * p->places[0].stride;
#define AT(n) ((n) == 0 ? (float *)input : values + p->places[n].offset * p->block)
        for (int64_t i = 0; i < p->count; i++) {
            const operation *o = p->operations + i;
            const float *x = o->left >= 0 ? AT(o->left) : o->a;
            const int64_t xs = o->left >= 0 ? p->places[o->left].stride : 0, ys = p->places[o->out].stride;
            float *y = AT(o->out);
            int64_t failed = 0;
            if (o->kind >= NEG) failed = NAME(unary)(o, x, xs, y, ys, rows);
            else if (o->kind >= ADD) {
                const float *z = o->right >= 0 ? AT(o->right) : o->b;
                failed = NAME(binary)(o, x, xs, z, o->right >= 0 ? p->places[o->right].stride : 0, y, ys, rows);
            } else if (o->kind <= SETS) NAME(trees)(o, x, xs, y, ys, rows, c->scratch + o->temporary);
            else if (o->kind == GEMM) NAME(gemm)(o, x, xs, y, ys, rows);
            else if (o->kind == DOT) NAME(dot)(o, x, xs, y, ys, rows);
            else if (o->kind == SOFTMAX) NAME(softmax)(o->width, x, xs, y, ys, rows);
            else if (o->kind == GATHER) {
                const int32_t *column = o->b;
                for (int64_t r = 0; r < rows; r++)
                    for (int64_t j = 0; j < o->width; j++) y[r * ys + j] = x[r * xs + column[j]];
            } else if (o->kind == FILL || o->kind == COPY) {
                for (int64_t r = 0; r < rows; r++)
                    memcpy(y + r * ys + o->inner, x + r * xs, (size_t)o->width * sizeof(float));
            } else failed = 1;
            if (failed) return 1 + i;
        }
        const float *out = AT(p->output);
        for (int64_t r = 0; r < rows; r++)
            memcpy(c->y + (start + r) * p->outputs, out + r * p->places[p->output].stride, (size_t)p->outputs * sizeof(float));
#undef AT
    }
    return 0;
}

#undef INLINE
#undef WALKERS
#endif
