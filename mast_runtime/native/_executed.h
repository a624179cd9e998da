/* What a team is told of its actions, what it counts of its inputs, and its action values. Part of _team.h. */

/* executed(actions [n]) */
static PyObject *team_executed(PyObject *object, PyObject *given)
{
    Team *self = (Team *)object;
    Py_buffer view;
    PyObject *last = last_actions(self, Py_False); /* as array: False is no numpy array */
    PyObject *checked = last ? PyObject_CallFunction(check_executed, "OOi", given, last, (int)self->actions) : NULL;
    Py_XDECREF(last);
    const int fits = checked && plain_buffer(checked, &view, 'q', 1, 0, self->n);
    Py_XDECREF(checked);
    if (!fits) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_SystemError, "a converter returned an array of another kind");
        return NULL;
    }
    if (!team_free(self)) {
        PyBuffer_Release(&view);
        return NULL;
    }
    const int64_t *const action = view.buf;
    int valid = 1;
    for (Py_ssize_t i = 0; i < self->n; i++)
        valid &= action[i] >= 0 && action[i] < (int64_t)self->actions && self->last_action[i] >= 0;
    for (Py_ssize_t i = 0; valid && i < self->n_groups; i++) {
        Group *g = &self->groups[i];
        for (uint32_t j = 0; g->states && j < g->size; j++)
            mast_executed(&g->network->net, &g->states[j], (int32_t)action[g->member[j]]);
    }
    for (Py_ssize_t i = 0; valid && i < self->n; i++)
        self->last_action[i] = (int32_t)action[i];
    PyBuffer_Release(&view);
    if (!valid) {
        PyErr_SetString(PyExc_SystemError, "a converter returned an action out of range");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *team_out_of_range(PyObject *object, void *unused)
{
    (void)unused;
    return team_free((Team *)object) ? PyLong_FromUnsignedLongLong(((Team *)object)->total_outside) : NULL;
}

static PyObject *team_out_of_range_counts(PyObject *object, void *unused)
{
    (void)unused;
    const Team *self = (Team *)object;
    if (!team_free(self))
        return NULL;
    return array_of(self->outside, 8u * (size_t)self->n * self->obs, "q", self->n, self->obs);
}

static PyObject *team_q_bytes(PyObject *object, void *unused)
{
    (void)unused;
    const Team *self = (Team *)object;
    const Py_ssize_t size = 4 * self->n * (Py_ssize_t)self->actions;
    return team_free(self) ? PyBytes_FromStringAndSize((const char *)self->q, size) : NULL;
}
