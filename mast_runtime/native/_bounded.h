/* One agent's continuous action, from what its network gives. Part of _agent.h. */

/* A writable buffer of floats [columns], or of 1 to `-columns` floats. */
static int writable_floats(PyObject *object, Py_buffer *view, Py_ssize_t columns)
{
    const Py_ssize_t size = columns < 0 ? PyObject_Size(object) : columns;
    if (size < 1 || (columns < 0 && size > -columns) || !plain_buffer(object, view, 'f', 1, 0, size))
        return 0;
    if (!view->readonly)
        return 1;
    PyBuffer_Release(view);
    return 0;
}

/* bounded(x [obs], last [actions], bounds [5 size], out [size]): a decision on x, all float32; last and out are written, the
 * first `size` components of last. x may end in last. See mast_kernels.squash. */
static PyObject *agent_bounded(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    Agent *self = (Agent *)object;
    const mast_network *n = &self->network->net;
    Py_buffer x, last, bounds, out;
    if (given != 4 || !plain_buffer(args[0], &x, 'f', 1, 0, n->obs)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "bounded() takes x [obs], last [actions], bounds and out, of float32");
        return NULL;
    }
    int taken = 0;
    if (writable_floats(args[1], &last, n->actions)) {
        if (writable_floats(args[3], &out, -(Py_ssize_t)n->actions)) {
            const Py_ssize_t size = out.len / 4;
            if (plain_buffer(args[2], &bounds, 'f', 1, 0, 5 * size)) {
                taken = agent_decide(self, x.buf, NULL);
                if (taken >= 0)
                    self->network->kernels->squash(self->state.q, bounds.buf, (uint32_t)size, last.buf, out.buf);
                taken = taken < 0 ? taken : 1;
                PyBuffer_Release(&bounds);
            }
            PyBuffer_Release(&out);
        }
        PyBuffer_Release(&last);
    }
    PyBuffer_Release(&x);
    if (taken < 0)
        return raise_fault(taken, args[0], NULL, 0, n->obs, n->actions);
    if (taken == 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "last, bounds and out do not fit the network, or cannot be written");
        return NULL;
    }
    Py_RETURN_NONE;
}
