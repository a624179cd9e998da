/* A team's continuous actions, from what its networks give. Part of _team.h. */

/* bounded(x [n, obs], last [n actions], bounds [5 n actions], out [n actions]): a decision on x, all float32; last and out
 * are written. See mast_kernels.squash. */
static PyObject *team_bounded(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    Team *self = (Team *)object;
    Py_buffer view[4] = {{0}};
    const Py_ssize_t size = self->n * (Py_ssize_t)self->actions;
    if (!team_free(self))
        return NULL;
    const int taken = given == 4 && plain_buffer(args[0], &view[0], 'f', 2, self->n, self->obs)
                      && writable_floats(args[1], &view[1], size) && plain_buffer(args[2], &view[2], 'f', 1, 0, 5 * size)
                      && writable_floats(args[3], &view[3], size);
    const int fault = taken ? team_decide(self, view[0].buf, NULL) : 0;
    if (taken && !fault)
        self->groups[0].network->kernels->squash(self->q, view[2].buf, (uint32_t)size, view[1].buf, view[3].buf);
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
