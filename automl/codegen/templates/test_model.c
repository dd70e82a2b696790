/* Predicts the rows of test_vectors.txt and compares with what the original model says of them.

   test_model FILE           0 if every number is as near as it must be, else 1, and says how far off the worst is
   test_model FILE --print   prints the predictions, one row in a line

   The file: "rows N outputs K scale S"; then for each row its fields in the order of model_row, one in a line ("n NUMBER",
   "s TEXT" with every byte that isn't a letter or a digit as %XX, "-" for NULL), and "= NUMBER ..." with what is expected. */
#include "model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    size_t offset;
    int is_text;
} field;

static const field fields[] = {
@FIELDS@};

enum { FIELDS = @COUNT@ };
static const double allowed = 1e-5; /* relative to the larger of the expected number and the scale */

/* One line of any length without its end, to be freed; NULL at the end of the file. */
static char *read_line(FILE *file) {
    size_t size = 256, used = 0;
    char *line = malloc(size);
    int c;
    while (line != NULL && (c = getc(file)) != EOF && c != '\n') {
        if (used + 2 > size) {
            char *more = realloc(line, size *= 2);
            if (more == NULL) {
                free(line);
                return NULL;
            }
            line = more;
        }
        line[used++] = (char)c;
    }
    if (line != NULL && used == 0 && feof(file)) {
        free(line);
        return NULL;
    }
    if (line != NULL) {
        line[used] = 0;
    }
    return line;
}

/* Turns %XX into the bytes that they stand for, in place. */
static void decode(char *text) {
    char *to = text;
    for (; *text != 0; text++) {
        if (*text == '%' && text[1] != 0 && text[2] != 0) {
            char digits[3];
            digits[0] = text[1];
            digits[1] = text[2];
            digits[2] = 0;
            *to++ = (char)strtoul(digits, NULL, 16);
            text += 2;
        } else {
            *to++ = *text;
        }
    }
    *to = 0;
}

/* Reads one field; the text that it points to is `line`, or nothing. 0 where the line isn't one of this field. */
static int read_field(model_row *row, const field *which, char *line) {
    char *place = (char *)row + which->offset;
    if (which->is_text) {
        const char *text = line + 2;
        if (line[0] == '-') {
            text = NULL;
        } else if (line[0] != 's' || line[1] != ' ') {
            return 0;
        } else {
            decode(line + 2);
        }
        memcpy(place, &text, sizeof text);
    } else {
        const double number = line[0] == 'n' ? strtod(line + 1, NULL) : 0.0;
        if (line[0] != 'n') {
            return 0;
        }
        memcpy(place, &number, sizeof number);
    }
    return 1;
}

/* How far the numbers are from those of a line of expected ones, by what is allowed; -1 where it isn't such a line. */
static double difference(const float *out, const char *line, double scale) {
    double worst = 0.0;
    char *end;
    int i;
    if (line[0] != '=') {
        return -1.0;
    }
    for (i = 0, line++; i < MODEL_OUTPUTS; i++, line = end) {
        const double expected = strtod(line, &end);
        const double size = fabs(expected) > scale ? fabs(expected) : scale;
        const double off = (double)out[i] == expected ? 0.0 : fabs((double)out[i] - expected) / size;
        if (end == line) {
            return -1.0;
        }
        worst = off > worst || isnan(off) ? off : worst;
    }
    return worst;
}

int main(int count, char **arguments) {
    static float out[MODEL_OUTPUTS], again[MODEL_OUTPUTS];
    static char *lines[FIELDS + 1];
    model_row row;
    double scale = 1.0, worst = 0.0;
    int rows = 0, outputs = 0, i, j;
    const int print = count > 2 && strcmp(arguments[2], "--print") == 0;
    FILE *file = count > 1 ? fopen(arguments[1], "rb") : NULL;
    char *head = file == NULL ? NULL : read_line(file);
    if (head == NULL || sscanf(head, "rows %d outputs %d scale %lf", &rows, &outputs, &scale) != 3
        || outputs != MODEL_OUTPUTS) {
        fprintf(stderr, "usage: test_model FILE [--print]; the file is missing or not one of this model\n");
        free(head);
        if (file != NULL) {
            fclose(file);
        }
        return 2;
    }
    free(head);
    for (i = 0; i < rows && worst >= 0.0; i++) {
        char *expected;
        int good = 1;
        model_row_missing(&row);
        for (j = 0; j < FIELDS; j++) {
            lines[j] = read_line(file);
            good = good && lines[j] != NULL && read_field(&row, &fields[j], lines[j]);
        }
        model_predict(&row, out);
        model_predict_batch(&row, 1, again);
        expected = read_line(file);
        if (!good || expected == NULL || memcmp(out, again, sizeof out) != 0) {
            worst = -1.0;
        } else {
            const double off = difference(out, expected, scale);
            worst = off < 0.0 || isnan(off) ? -1.0 : off > worst ? off : worst;
        }
        for (j = 0; print && j < MODEL_OUTPUTS; j++) {
            printf(j + 1 < MODEL_OUTPUTS ? "%.9g " : "%.9g\n", (double)out[j]);
        }
        free(expected);
        for (j = 0; j < FIELDS; j++) {
            free(lines[j]);
        }
    }
    fclose(file);
    if (worst < 0.0) {
        fprintf(stderr, "row %d: a line is not as it should be, or the prediction is not a number\n", i);
        return 1;
    }
    fprintf(stderr, "%d rows, largest difference %.3g, allowed %g\n", rows, worst, allowed);
    return worst <= allowed ? 0 : 1;
}
