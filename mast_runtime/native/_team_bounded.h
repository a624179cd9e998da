/* A team's continuous actions, from what its networks give. Part of _team.h. */

/* Writable rows of floats [rows][columns], between which there may be gaps. 0: something else, no error set. */
static int spaced_rows(PyObject *object, Py_buffer *view, Py_ssize_t rows, Py_ssize_t columns)
{
    if (PyObject_GetBuffer(object, view, PyBUF_FORMAT | PyBUF_STRIDES | PyBUF_WRITABLE) < 0) {
        PyErr_Clear();
        return 0;
    }
    if (view->format && !strcmp(view->format, "f") && view->ndim == 2 && view->shape[0] == rows
        && view->shape[1] == columns && view->strides[1] == 4 && view->strides[0] >= 4 * columns
        && view->strides[0] % 4 == 0 && (uintptr_t)view->buf % 4 == 0)
        return 1;
    PyBuffer_Release(view);
    return 0;
}

/* All actions at once: `last`, whose rows may be apart, through the team's own memory and back. */
static void team_squash(Team *self, const float *bounds, const Py_buffer *last, float *out)
{
    const size_t row = self->actions * sizeof(float);
    char *const from = last->buf;
    for (Py_ssize_t i = 0; i < self->n; i++)
        memcpy(self->squashed + (size_t)i * self->actions, from + i * last->strides[0], row);
    const uint32_t size = (uint32_t)self->n * self->actions;
    self->groups[0].network->kernels->squash(self->q, bounds, size, self->squashed, out);
    for (Py_ssize_t i = 0; i < self->n; i++)
        memcpy(from + i * last->strides[0], self->squashed + (size_t)i * self->actions, row);
}

/* bounded(x [n, obs], last [n, actions], bounds [5 n actions], out [n, actions]): a decision on x, all float32; last and out
 * are written. The rows of x may end in those of last. See mast_kernels.squash. */
static PyObject *team_bounded(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    Team *self = (Team *)object;
    Py_buffer view[4] = {{0}};
    const Py_ssize_t size = self->n * (Py_ssize_t)self->actions;
    if (!team_free(self))
        return NULL;
    const int taken = given == 4 && plain_buffer(args[0], &view[0], 'f', 2, self->n, self->obs)
                      && spaced_rows(args[1], &view[1], self->n, self->actions)
                      && plain_buffer(args[2], &view[2], 'f', 1, 0, 5 * size)
                      && plain_buffer(args[3], &view[3], 'f', 2, self->n, self->actions) && !view[3].readonly;
    const int fault = taken ? team_decide(self, view[0].buf, NULL) : 0;
    if (taken && !fault)
        team_squash(self, view[2].buf, &view[1], view[3].buf);
    for (int i = 0; i < 4; i++)
        PyBuffer_Release(&view[i]);
    if (fault)
        return raise_fault(fault, args[0], NULL, self->n, self->obs, self->actions);
    if (!taken) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "x, last, bounds and out do not fit the team, or cannot be written");
        return NULL;
    }
    Py_RETURN_NONE;
}
