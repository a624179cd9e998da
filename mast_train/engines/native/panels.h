/* A matrix on its connections: panels of up to 8 rows that share their columns. Height 1 is unstructured sparsity,
 * height 8 with all columns is dense. Activations beside it are [feature][lane]: TRAIN_LANES rows of a batch are lanes. */
#ifndef MAST_TRAIN_PANELS_H
#define MAST_TRAIN_PANELS_H
#include <stddef.h>
#include <stdint.h>

enum { TRAIN_LANES = 32, TRAIN_PANEL = 8 };

/* Rows row to row + height share columns[first..end); their values are [column][height] from `value` on. */
typedef struct {
    int32_t row, height, first, end, value;
} train_panel;

typedef struct {
    int32_t panels, columns, values;
    train_panel *panel;
    int32_t *column;   /* times TRAIN_LANES */
    int32_t *position; /* of each value in its layer's weights, or in the values of what this is the transpose of;
                          -1: no connection */
} train_matrix;

/* A mask [rows, columns] (NULL: full) at row + ..., column + ... of a matrix; positions count from `position`. */
typedef struct {
    const uint8_t *mask;
    int32_t rows, columns, row, column, position;
} train_part;

/* One matrix of parts, of which those of the same rows come in the order of their columns; its transpose where `back`
 * is given. No panel crosses from one segment of rows to the next. Returns 0 when memory is short. */
int train_matrix_join(int32_t rows, int32_t columns, int32_t segment, const train_part *part, int parts,
                      train_matrix *matrix, train_matrix *back);

/* The same of one mask bool [rows, columns], NULL: full. */
int train_matrix_build(const uint8_t *mask, int32_t rows, int32_t columns, train_matrix *matrix, train_matrix *back);
void train_matrix_free(train_matrix *matrix);

/* Values to their positions: below `split` in `weight`, from there on in `rest`. */
void train_scatter(const train_matrix *m, const float *values, float *weight, float *rest, int32_t split);
#endif
