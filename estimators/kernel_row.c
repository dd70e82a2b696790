/* One row of Python objects, a dict or a tuple, to a prediction in one call: the encoder of runtime.py beside the kernel.
 *
 * C99 without Python's headers and without a symbol of Python's to link: `compiled_row.py` hands over the addresses of the
 * functions of CPython's stable ABI that are used. What a cell cannot be read as here (a number written as text, a value of a
 * rare type, an absent column) is no error: the call returns True, and Python reads the whole row with all its care.
 */
#include <stdint.h>
#include <string.h>

typedef struct call call; /* of kernel.c */
int64_t kernel_run(const call *c);

typedef void object;

/* Functions of CPython's stable ABI, and the objects that cells are compared with. */
typedef struct {
    object *(*capsule)(object *capsule, const char *name);    /* PyCapsule_GetPointer */
    object *(*dict)(object *dict, object *key);               /* PyDict_GetItemWithError: borrowed */
    object *(*tuple)(object *tuple, intptr_t place);          /* PyTuple_GetItem: borrowed */
    double (*number)(object *value);                          /* PyFloat_AsDouble */
    long long (*whole)(object *value);                        /* PyLong_AsLongLong */
    const char *(*utf8)(object *text, intptr_t *length);      /* PyUnicode_AsUTF8AndSize */
    object *(*type)(object *value);                           /* PyObject_Type: new */
    void (*hold)(object *value);                              /* Py_IncRef */
    void (*drop)(object *value);                              /* Py_DecRef */
    object *(*failed)(void);                                  /* PyErr_Occurred */
    void (*forget)(void);                                     /* PyErr_Clear */
    void *(*unlock)(void);                                    /* PyEval_SaveThread */
    void (*lock)(void *state);                                /* PyEval_RestoreThread */
    object *none, *yes, *no, *yes_text, *no_text, *text_type, *whole_type, *number_type;
    object *missing; /* a dict of the strings that mean "missing" */
} python;

/* An entry of the encoder. `codes` is a dict of level and None to a number, `numbers` one of the levels that are numbers. */
typedef struct {
    object *key, *codes, *numbers;
    int64_t cell, kind, place, width, other, missing; /* cell: its place in a tuple */
    double a, b;
    const float *rows;
} column;

typedef struct {
    const column *columns;
    const call *what; /* NULL: the row is only encoded */
    float *row, *first; /* first: 1 - *second is written there, unless NULL */
    const float *second;
    int64_t count, packed, width, unlock;
} plan;

enum { NUMBER, SCALED, ABSENT, SHIFTED, SPLIT, ORDINAL, TARGET, ONEHOT, HASHED };

static const python *py;
static uint32_t crc_of_byte[256];

/* Called before any row, by each copy of compiled_row.py in the process: what it hands over outlives that module. */
void row_python(const python *functions)
{
    static python kept;
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
        crc_of_byte[byte] = crc;
    }
    kept = *functions;
    py = &kept;
    py->hold(py->yes_text);
    py->hold(py->no_text);
    py->hold(py->missing);
}

/* The bytes of the structures, so that compiled_row.py can see that it lays out the same. */
void row_sizes(int64_t *sizes)
{
    const int64_t all[] = {sizeof(python), sizeof(column), sizeof(plan)};
    memcpy(sizes, all, sizeof(all));
}

static float clipped(double v)
{
    const double most = 3.4028234663852886e38;
    return (float)(v < -most ? -most : v > most ? most : v);
}

/* `squash_one` of runtime.py, bit for bit. */
static double squashed(double v, double center, double scale)
{
    double z = (v - center) / scale;
    if (z != z) return 0.0;
    z = z < -1e6 ? -1e6 : z > 1e6 ? 1e6 : z;
    return z / __builtin_sqrt(1.0 + z * z / 9.0);
}

/* 1 where the text may be white space alone, or cannot be read; its bytes otherwise. */
static int blank(object *text, const char **bytes, intptr_t *length)
{
    *bytes = py->utf8(text, length);
    if (!*bytes) return 1;
    const unsigned char c = *length ? (unsigned char)**bytes : ' ';
    return c >= 0x80 || c <= ' ';
}

/* The code of a category's cell; 0 where Python must look. */
static int code_of(const column *c, object *v, int64_t *code)
{
    object *found = py->dict(c->codes, v);
    if (!found) {
        const char *bytes;
        intptr_t length;
        object *type = py->type(v);
        py->drop(type); /* the value keeps it alive */
        if (type == py->text_type) {
            if (py->dict(py->missing, v)) { *code = c->missing; return 1; }
            if (blank(v, &bytes, &length)) return 0;
            if (c->kind == HASHED) {
                uint32_t crc = 0xFFFFFFFFu;
                for (intptr_t i = 0; i < length; i++) crc = crc >> 8 ^ crc_of_byte[(crc ^ (unsigned char)bytes[i]) & 255];
                *code = (int64_t)((crc ^ 0xFFFFFFFFu) % (uint32_t)c->other);
            } else *code = c->other;
            return 1;
        }
        if (type == py->number_type) {
            const double number = py->number(v);
            if (number != number) { *code = c->missing; return 1; }
        }
        if (c->kind == HASHED) return 0; /* the text of a number is hashed */
        if (v == py->yes || v == py->no) found = py->dict(c->codes, v == py->yes ? py->yes_text : py->no_text);
        else if (type == py->whole_type || type == py->number_type) found = py->dict(c->numbers, v);
        else return 0;
        if (!found) { *code = c->other; return !py->failed(); }
    }
    *code = py->whole(found);
    return 1;
}

/* Writes one cell; 0 where Python must. */
static int write(const column *c, object *v, float *row)
{
    float *out = row + c->place;
    if (c->kind >= ORDINAL) {
        int64_t code;
        if (!code_of(c, v, &code)) return 0;
        if (c->kind == ORDINAL) *out = (float)code;
        else if (c->kind == TARGET) memcpy(out, c->rows + code * c->width, (size_t)c->width * sizeof(float));
        else if (code >= 0) out[code] = 1.0f;
        return 1;
    }
    double number = __builtin_nan("");
    if (v != py->none) {
        number = py->number(v);
        if (number == -1.0 && py->failed()) return 0;
    }
    switch (c->kind) {
    case NUMBER: *out = clipped(number); return 1;
    case SCALED: *out = (float)squashed(number, c->a, c->b); return 1;
    case ABSENT: *out = number != number ? 1.0f : 0.0f; return 1;
    case SHIFTED: *out = clipped(number - c->a); return 1;
    case SPLIT:
        number -= c->a;
        out[0] = clipped(number);
        number = number < -3.4028234663852886e38 ? -3.4028234663852886e38 : number > 3.4028234663852886e38 ? 3.4028234663852886e38 : number;
        out[1] = (float)(number - (double)out[0]);
        return 1;
    }
    return 0;
}

static void predict(const plan *p)
{
    if (p->unlock) {
        void *state = py->unlock();
        kernel_run(p->what);
        py->lock(state);
    } else kernel_run(p->what);
    if (p->first) *p->first = 1.0f - *p->second;
}

static object *returned(object *value)
{
    py->hold(value);
    return value;
}

static object *row(object *self, object *cells, int named)
{
    const plan *p = py->capsule(py->tuple(self, 0), 0);
    if (p->width > p->packed) memset(p->row + p->packed, 0, (size_t)(p->width - p->packed) * sizeof(float));
    for (int64_t i = 0; i < p->count; i++) {
        const column *c = p->columns + i;
        object *v = named ? py->dict(cells, c->key) : py->tuple(cells, (intptr_t)c->cell);
        int read = 0;
        if (v) { /* held: reading a value may run Python code, which may take it out of the row */
            py->hold(v);
            read = write(c, v, p->row);
            py->drop(v);
        }
        if (!read) {
            py->forget();
            return returned(py->yes);
        }
    }
    if (p->what) predict(p);
    return returned(py->none);
}

/* Methods of CPython, whose `self` is a tuple of a plan's capsule and all that it points into. They return None, or True where
 * nothing was predicted and Python must read the row. */

/* METH_O: a dict. */
object *row_of_dict(object *self, object *cells) { return row(self, cells, 1); }

/* METH_O: a tuple of the entries' cells. */
object *row_of_tuple(object *self, object *cells) { return row(self, cells, 0); }

/* METH_NOARGS: the row is encoded already. */
object *row_encoded(object *self, object *nothing)
{
    (void)nothing;
    predict(py->capsule(py->tuple(self, 0), 0));
    return returned(py->none);
}
