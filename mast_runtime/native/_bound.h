/* The arrays that a player's continuous actions go through. Part of _native.c. */

/* Held as long as the player: last [n][actions] in [-1, 1] and out [size] in their units are written, bounds [5][size] is
 * what mast_kernels.squash reads. */
typedef struct {
    Py_buffer last, bounds, out;
    uint32_t more; /* actions, where a network's last inputs are last's, else 0 */
} Bound;

static void unbind(Bound *bound)
{
    PyBuffer_Release(&bound->last), PyBuffer_Release(&bound->bounds), PyBuffer_Release(&bound->out);
    memset(bound, 0, sizeof *bound);
}

/* A writable buffer of floats [columns]. 0: something else, no error set. */
static int writable_floats(PyObject *object, Py_buffer *view, Py_ssize_t columns)
{
    if (!plain_buffer(object, view, 'f', 1, 0, columns))
        return 0;
    if (!view->readonly)
        return 1;
    PyBuffer_Release(view);
    return 0;
}

/* bind(last [n actions], bounds [5 size], out [size], joins) of n agents, whose networks see `obs`. size is n actions, or,
 * for a single agent, from 1 on. */
static PyObject *bind_arrays(Bound *bound, PyObject *args, Py_ssize_t n, uint32_t obs, uint32_t actions)
{
    PyObject *last, *bounds, *out;
    int joins;
    if (!PyArg_ParseTuple(args, "OOOp", &last, &bounds, &out, &joins))
        return NULL;
    const Py_ssize_t all = n * (Py_ssize_t)actions, size = PyObject_Size(out);
    if (size < 0)
        return NULL;
    Bound taken = {.more = joins ? actions : 0};
    const int fits = (!joins || actions < obs) && size >= 1 && size <= all && (size == all || n == 1)
                     && writable_floats(last, &taken.last, all) && plain_buffer(bounds, &taken.bounds, 'f', 1, 0, 5 * size)
                     && writable_floats(out, &taken.out, size);
    if (!fits) {
        unbind(&taken);
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "last, bounds and out do not fit the networks, or cannot be written");
        return NULL;
    }
    unbind(bound);
    *bound = taken;
    Py_RETURN_NONE;
}

/* -1: there are no arrays yet, and the error is set. */
static int check_bound(const Bound *bound)
{
    if (!bound->out.buf)
        PyErr_SetString(PyExc_ValueError, "bounded() before bind()");
    return bound->out.buf ? 0 : -1;
}

/* The outputs q of a decision as actions. */
static void squash_bound(const Bound *bound, const mast_kernels *kernels, const float *q)
{
    kernels->squash(q, bound->bounds.buf, (uint32_t)(bound->out.len / 4), bound->last.buf, bound->out.buf);
}
