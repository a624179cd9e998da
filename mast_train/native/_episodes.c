/* The part of the extension module that finds the transitions of a batch. */
#include "calls.h"

#include <stdlib.h>

/* episodes((B, T), seeds, filled [B,T], transition, now, after, order) -> how many transitions, R: see episodes.Rows and
 * inputs.Inputs. int64 [R] each, memory for B T; order int32 [3,B]. */
PyObject *episode_rows(PyObject *self, PyObject *args)
{
    (void)self;
    int episodes, steps, seeds;
    unsigned long long at[5];
    if (!PyArg_ParseTuple(args, "(ii)iKKKKK", &episodes, &steps, &seeds, &at[0], &at[1], &at[2], &at[3], &at[4]))
        return NULL;
    const uint8_t *filled = address(at[0]);
    int64_t *transition = address(at[1]), *now = address(at[2]), *after = address(at[3]), row = 0;
    int32_t *order = address(at[4]), *length = order + episodes, *first = length + episodes;
    int32_t *count = malloc(2 * (size_t)episodes * sizeof *count), *begin = count + episodes;
    if (!count)
        return PyErr_NoMemory();
    for (int b = 0; b < episodes; b++) {
        begin[b] = (int32_t)row;
        for (count[b] = 0; count[b] < steps && filled[b * steps + count[b]]; count[b]++, row++) {
            transition[row] = (int64_t)b * steps + count[b];
            now[row] = transition[row] + b;
            after[row] = now[row] + 1;
        }
    }
    for (int b = 0, part = episodes / seeds; b < episodes; b++) {
        int place = b; /* longest first within a seed's part, equal ones in order */
        for (; place % part && length[place - 1] < count[b] + 1; place--) {
            order[place] = order[place - 1];
            length[place] = length[place - 1];
            first[place] = first[place - 1];
        }
        order[place] = b, length[place] = count[b] + 1, first[place] = begin[b];
    }
    free(count);
    return PyLong_FromLongLong(row);
}
