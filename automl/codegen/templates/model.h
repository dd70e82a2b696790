/* @TITLE@

   Fill a model_row, then model_predict. A number or a date that is missing is NAN, a category NULL or "". Categories are
   UTF-8 text, compared byte for byte with those of the training data: of a column of whole numbers or booleans that is "3",
   "True". A level that was not there in training is fine. Nothing is allocated, no global is written: any thread may call.
   A call keeps about @STACK@ bytes on the stack. */
#ifndef MODEL_H
#define MODEL_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { MODEL_OUTPUTS = @OUTPUTS@ };

typedef struct {
@FIELDS@
} model_row;

/* Makes a row of which nothing is known: every field missing@SPARSE@. */
void model_row_missing(model_row *row);

/* Writes MODEL_OUTPUTS numbers: @WRITES@. */
void model_predict(const model_row *row, float *out);

/* The same for `count` rows, one row's numbers after another's. */
void model_predict_batch(const model_row *rows, size_t count, float *out);
@CLASSES@
#ifdef __cplusplus
}
#endif

#endif
