//@ head
#include "model.h"

#include <math.h>
#include <string.h>
//@ floats
#include <float.h>

/* A number as float32, what is beyond its range clipped to it; NaN (missing) stays. */
static float to_float(double v) {
    return v > FLT_MAX ? FLT_MAX : v < -FLT_MAX ? -FLT_MAX : (float)v;
}
//@ shifted

/* Writes v - shift, and what float32 loses of that. */
static void split(double v, double shift, float *x) {
    double moved = v - shift;
    moved = moved > FLT_MAX ? FLT_MAX : moved < -FLT_MAX ? -FLT_MAX : moved;
    x[0] = (float)moved;
    x[1] = (float)(moved - (double)x[0]);
}
//@ block

/* A cell of a sparse block: missing is zero. */
static double cell(double v) {
    return isnan(v) ? 0.0 : v > FLT_MAX ? FLT_MAX : v < -FLT_MAX ? -FLT_MAX : v;
}
//@ squash

/* z / sqrt(1 + z^2 / 9) of the centred and scaled value; 0 where missing. */
static double squash(double v, double center, double scale) {
    double z = (v - center) / scale;
    if (isnan(z)) {
        return 0.0;
    }
    z = z > 1e6 ? 1e6 : z < -1e6 ? -1e6 : z;
    return z / sqrt(1.0 + z * z / 9.0);
}
//@ dates

static long long floor_div(long long a, long long b) {
    return a / b - (a % b < 0);
}

/* Epoch seconds within the calendar's bounds; NaN (missing) stays. */
static double moment(double seconds) {
    const double last = 10000000.0 * 86400.0;
    return seconds > last ? last : seconds < -last ? -last : seconds;
}

enum part { DAYS, YEAR, MONTH, WEEKDAY, YEARDAY, HOUR, DAY };

/* A part of a moment by the Gregorian calendar (H. Hinnant, "chrono-compatible low-level date algorithms"). */
static double date_part(enum part part, double seconds) {
    long long day, era, of_era, year_of_era, of_year, month, year, before;
    if (isnan(seconds) || part == DAYS) {
        return seconds / 86400.0;
    }
    day = (long long)floor(seconds / 86400.0);
    if (part == DAY) {
        return (double)day;
    }
    if (part == HOUR) {
        const double rest = seconds - (double)day * 86400.0;
        return floor((rest - fmod(rest, 3600.0)) / 3600.0 + 0.5);
    }
    if (part == WEEKDAY) {
        return (double)(day + 3 - 7 * floor_div(day + 3, 7));
    }
    era = floor_div(day + 719468, 146097);
    of_era = day + 719468 - era * 146097;
    year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    month = ((5 * of_year + 2) / 153 + 2) % 12 + 1;
    year = year_of_era + era * 400 + (month <= 2);
    if (part == YEAR) {
        return (double)year;
    }
    if (part == MONTH) {
        return (double)month;
    }
    before = year - 1;
    return (double)(day - (365 * before + floor_div(before, 4) - floor_div(before, 100) + floor_div(before, 400) - 719162)
                    + 1);
}
//@ levels

typedef struct {
    const char *name; /* UTF-8; a table is sorted by its bytes */
    int code;
} level;

/* Whether a category's text is missing: NULL, "", white space, or one of the usual words for it. */
static int is_missing(const char *text) {
    static const char *const words[] = {
        "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>",
        "N/A", "NA", "NULL", "NaN", "NaT", "None", "n/a", "nan", "null"};
    const unsigned char *at = (const unsigned char *)text;
    size_t i;
    if (text == NULL) {
        return 1;
    }
    for (i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcmp(text, words[i]) == 0) {
            return 1;
        }
    }
    while (*at != 0) { /* Unicode's white space, as UTF-8 */
        if ((*at >= 0x09 && *at <= 0x0d) || (*at >= 0x1c && *at <= 0x20)) {
            at += 1;
        } else if (at[0] == 0xc2 && (at[1] == 0x85 || at[1] == 0xa0)) {
            at += 2;
        } else if (at[0] == 0xe1 && at[1] == 0x9a && at[2] == 0x80) {
            at += 3;
        } else if (at[0] == 0xe2 && at[1] == 0x80
                   && ((at[2] >= 0x80 && at[2] <= 0x8a) || at[2] == 0xa8 || at[2] == 0xa9 || at[2] == 0xaf)) {
            at += 3;
        } else if (at[0] == 0xe2 && at[1] == 0x81 && at[2] == 0x9f) {
            at += 3;
        } else if (at[0] == 0xe3 && at[1] == 0x80 && at[2] == 0x80) {
            at += 3;
        } else {
            return 0;
        }
    }
    return 1;
}

/* The code of a level of a sorted table, `missing` or `unknown`. A known level is never missing. */
static int code_of(const char *text, const level *levels, size_t count, int missing, int unknown) {
    size_t low = 0, high = text == NULL ? 0 : count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const int order = strcmp(text, levels[middle].name);
        if (order == 0) {
            return levels[middle].code;
        }
        if (order < 0) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return is_missing(text) ? missing : unknown;
}
//@ places

/* A 1 at the place, if that is not negative. */
static void put(float *x, int place) {
    if (place >= 0) {
        x[place] = 1.0f;
    }
}
//@ hashed

/* CRC-32 (IEEE 802.3) of a text's bytes. */
static unsigned long crc32(const char *text) {
    static const unsigned long table[16] = {
        0x00000000UL, 0x1db71064UL, 0x3b6e20c8UL, 0x26d930acUL, 0x76dc4190UL, 0x6b6b51f4UL, 0x4db26158UL, 0x5005713cUL,
        0xedb88320UL, 0xf00f9344UL, 0xd6d6a3e8UL, 0xcb61b38cUL, 0x9b64c2b0UL, 0x86d3d2d4UL, 0xa00ae278UL, 0xbdbdf21cUL};
    unsigned long crc = 0xffffffffUL;
    const unsigned char *at = (const unsigned char *)text;
    for (; *at != 0; at++) {
        crc = table[(crc ^ *at) & 15] ^ (crc >> 4);
        crc = table[(crc ^ (*at >> 4)) & 15] ^ (crc >> 4);
    }
    return crc ^ 0xffffffffUL;
}

/* The bucket of a text; -2 stands for one that is neither missing nor among the levels. */
static int bucket(const char *text, const level *levels, size_t count, int missing, unsigned long buckets) {
    const int known = code_of(text, levels, count, missing, -2);
    return known == -2 ? (int)(crc32(text) % buckets) : known;
}
//@ dense

/* y = x W + b; W holds the weights of one input after another's. */
static void dense(const float *x, int inputs, const float *w, const float *b, int outputs, float *y) {
    int i, j;
    if (outputs == 1) {
        double sum = (double)b[0];
        for (i = 0; i < inputs; i++) {
            sum += (double)x[i] * (double)w[i];
        }
        y[0] = (float)sum;
        return;
    }
    memcpy(y, b, (size_t)outputs * sizeof *y);
    for (i = 0; i < inputs; i++, w += outputs) {
        const float xi = x[i];
        for (j = 0; j < outputs; j++) {
            y[j] += xi * w[j];
        }
    }
}
//@ relu

static float relu(float x) {
    return x < 0.0f ? 0.0f : x;
}
//@ elu

/* Of the exponential linear units, scaled or not. */
static float elu(float x, float alpha, float gamma) {
    return gamma * (x > 0.0f ? x : alpha * expm1f(x));
}
//@ sigmoid

static float sigmoid(float x) {
    return (float)(1.0 / (1.0 + exp(-(double)x)));
}
//@ softplus

static float softplus(float x) {
    return (x > 0.0f ? x : 0.0f) + log1pf(expf(-fabsf(x)));
}
//@ softmax

static void softmax(const float *x, int count, float *y) {
    double sum = 0.0;
    float most = x[0];
    int i;
    for (i = 1; i < count; i++) {
        most = x[i] > most ? x[i] : most;
    }
    for (i = 0; i < count; i++) {
        y[i] = expf(x[i] - most);
        sum += (double)y[i];
    }
    for (i = 0; i < count; i++) {
        y[i] = (float)((double)y[i] / sum);
    }
}
//@ nearest

/* The places of the k smallest numbers in their order, equal ones by place. */
static void nearest(const float *x, int count, int k, int *places) {
    int held = 0, i, j;
    for (i = 0; i < count; i++) {
        if (held == k && !(x[i] < x[places[k - 1]])) {
            continue;
        }
        for (j = held < k ? held++ : k - 1; j > 0 && x[i] < x[places[j - 1]]; j--) {
            places[j] = places[j - 1];
        }
        places[j] = i;
    }
}
//@ sets

typedef struct {
    int first, count; /* of `members` */
} set;

/* Whether x is one of the sorted members. */
static int is_member(float x, const float *members, int count) {
    int low = 0;
    while (count > 0) {
        const int half = count / 2;
        if (members[low + half] < x) {
            low += half + 1;
            count -= half + 1;
        } else if (x < members[low + half]) {
            count = half;
        } else {
            return 1;
        }
    }
    return 0;
}
//@ trees

typedef struct {
    float split;     /* x goes left where it is at most this; of a set: which of `sets` */
    int left, right; /* a node's number, or -1 - the number of a leaf */
    unsigned column : 29, missing_left : 1, is_set : 1;
} node;

typedef struct {
    const node *nodes;
    const int *roots;
    size_t count;         /* of roots */
    const float *values;  /* of the leaves */
    const int *targets;   /* to which number each value is added; NULL: the first */
    const int *entries;   /* where each leaf's values begin; NULL: one value a leaf */
    const set *sets;      //? sets
    const float *members; //? sets
} forest;

static void add_trees(const forest *trees, const float *x, double *sum) {
    size_t t;
    for (t = 0; t < trees->count; t++) {
        int at = trees->roots[t], last;
        while (at >= 0) {
            const node *here = &trees->nodes[at];
            const float v = x[here->column];
            int left = v <= here->split;
            if (here->is_set) {                                                  //? sets
                const set *codes = &trees->sets[(int)here->split];               //? sets
                left = is_member(v, &trees->members[codes->first], codes->count); //? sets
            }                                                                    //? sets
            if (isnan(v)) {
                left = here->missing_left;
            }
            at = left ? here->left : here->right;
        }
        at = -1 - at;
        last = at + 1;
        if (trees->entries != NULL) {
            last = trees->entries[at + 1];
            at = trees->entries[at];
        }
        for (; at < last; at++) {
            sum[trees->targets == NULL ? 0 : trees->targets[at]] += (double)trees->values[at];
        }
    }
}
//@ tables

@TABLES@
//@ encode

/* The row as the numbers that the model takes. */
static void encode(const model_row *row, float *x) {
@ENCODE@
}
//@ predict

static void scores(const model_row *row, float *y) {
@SCORES@
}

void model_row_missing(model_row *row) {
@MISSING@
}
//@ binary

void model_predict(const model_row *row, float *out) {
    float second;
    scores(row, &second);
    out[0] = 1.0f - second;
    out[1] = second;
}
//@ plain

void model_predict(const model_row *row, float *out) {
    scores(row, out);
}
//@ batch

void model_predict_batch(const model_row *rows, size_t count, float *out) {
    size_t i;
    for (i = 0; i < count; i++) {
        model_predict(&rows[i], &out[i * MODEL_OUTPUTS]);
    }
}
//@ classes

const char *const model_labels[MODEL_OUTPUTS] = {
    @LABELS@};

int model_class(const float *out) {
    int best = 0, i;
    for (i = 1; i < MODEL_OUTPUTS; i++) {
        best = out[i] > out[best] ? i : best;
    }
    return best;
}
