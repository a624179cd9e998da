/* One agent's continuous action, from what its network gives. Part of _agent.h. */

#include <math.h>

/* The agent's own components of q squashed into `last` [size] in [-1, 1], and into `out` [size] in their units. bounds: low,
 * high, middle and half of the range [4][size], and how far `last` may move. */
static void squash(const float *q, const float *bounds, uint32_t size, float *last, float *out)
{
    const float *const low = bounds, *const high = low + size, *const middle = high + size, *const half = middle + size;
    const float step = half[size];
    for (uint32_t k = 0; k < size; k++) {
        float u = tanhf(q[k]);
        u = u < last[k] - step ? last[k] - step : u > last[k] + step ? last[k] + step : u;
        const float action = middle[k] + u * half[k];
        last[k] = u;
        out[k] = action < low[k] ? low[k] : action > high[k] ? high[k] : action;
    }
}

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

/* bounded(x [obs], last [actions], bounds [4 size + 1], out [size]): a decision on x, all float32; last and out are written,
 * the first `size` components of last. x may end in last. */
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
            if (plain_buffer(args[2], &bounds, 'f', 1, 0, 4 * size + 1)) {
                taken = agent_decide(self, x.buf, NULL);
                if (taken >= 0)
                    squash(self->state.q, bounds.buf, (uint32_t)size, last.buf, out.buf);
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

/* squash(q, last, bounds, sizes, out): see mast_runtime.squash. q may be bytes. */
static PyObject *squash_rows(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *array[4], *result = NULL;
    Py_buffer q = {0}, last = {0}, bounds = {0}, sizes = {0}, out = {0};
    if (!PyArg_ParseTuple(args, "y*OOOO", &q, &array[0], &array[1], &array[2], &array[3]))
        return NULL;
    const Py_ssize_t floats = q.len / 4;
    if (one_axis(array[1], 'f', "bounds", &bounds) < 0 || one_axis(array[2], 'i', "sizes", &sizes) < 0)
        goto done;
    const Py_ssize_t n = sizes.len / 4, width = n ? floats / n : 0;
    int fits = n && q.len == 4 * n * width && bounds.len == 4 * n * (4 * width + 1) && (uintptr_t)q.buf % 4 == 0
               && writable_floats(array[0], &last, floats) && writable_floats(array[3], &out, floats);
    for (Py_ssize_t i = 0; fits && i < n; i++)
        fits = ((const int32_t *)sizes.buf)[i] >= 0 && ((const int32_t *)sizes.buf)[i] <= width;
    if (!fits) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "q, last, bounds, sizes and out do not fit together, or cannot be written");
        goto done;
    }
    for (Py_ssize_t i = 0; i < n; i++)
        squash((const float *)q.buf + i * width, (const float *)bounds.buf + i * (4 * width + 1),
               (uint32_t)((const int32_t *)sizes.buf)[i], (float *)last.buf + i * width, (float *)out.buf + i * width);
    result = Py_NewRef(Py_None);
done:
    PyBuffer_Release(&q);
    PyBuffer_Release(&last);
    PyBuffer_Release(&bounds);
    PyBuffer_Release(&sizes);
    PyBuffer_Release(&out);
    return result;
}
