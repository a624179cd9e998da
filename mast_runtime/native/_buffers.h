/* Memory, arguments and errors of the extension. Part of _native.c. */

static void *allocate(size_t size)
{
    void *memory = NULL;
    size = (size + ALIGNMENT) & ~(size_t)(ALIGNMENT - 1u);
#ifdef _WIN32
    memory = _aligned_malloc(size, ALIGNMENT);
#else
    if (posix_memalign(&memory, ALIGNMENT, size))
        memory = NULL;
#endif
    if (!memory) {
        PyErr_NoMemory();
        return NULL;
    }
    return memset(memory, 0, size);
}

static void release(void *memory)
{
#ifdef _WIN32
    _aligned_free(memory);
#else
    free(memory);
#endif
}

static size_t item_size(char format)
{
    return format == 'B' ? 1 : format == 'H' ? 2 : format == 'q' || format == 'd' ? 8 : 4;
}

/* A view of `object` as one axis of items of struct's `format` (of I, i, H, B, f, q, d), aligned. -1: the error is set, naming
 * `what`. */
static int one_axis(PyObject *object, char format, const char *what, Py_buffer *view)
{
    if (PyObject_GetBuffer(object, view, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) < 0)
        return -1;
    const char *const given = view->format ? view->format : "B";
    const int same = given[0] == format || (given[0] == 'l' && format == 'q');
    if (!same || given[1] || (size_t)view->itemsize != item_size(format))
        PyErr_Format(PyExc_TypeError, "%s has items of type %s, expected %c", what, given, format);
    else if (view->ndim != 1 || (view->len && (uintptr_t)view->buf % item_size(format)))
        PyErr_Format(PyExc_ValueError, "%s has %d axes or is not aligned, expected one aligned axis", what, view->ndim);
    else
        return 0;
    PyBuffer_Release(view);
    return -1;
}

/* A C-contiguous, aligned buffer of `format` ('?': bytes too) with ndim axes of these sizes. 0: something else, no error
 * set. */
static int plain_buffer(PyObject *object, Py_buffer *view, char format, int ndim, Py_ssize_t rows, Py_ssize_t columns)
{
    if (PyObject_GetBuffer(object, view, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) < 0) {
        PyErr_Clear();
        return 0;
    }
    const char *const given = view->format;
    const int same = given && (given[0] == format || (given[0] == 'B' && format == '?') || (given[0] == 'l' && format == 'q'));
    if (same && !given[1] && view->ndim == ndim && (format != 'q' || view->itemsize == 8)
        && view->shape[ndim - 1] == columns && (ndim == 1 || view->shape[0] == rows)
        && (uintptr_t)view->buf % (size_t)view->itemsize == 0)
        return 1;
    PyBuffer_Release(view);
    return 0;
}

/* `plain_buffer` of `object`, or of what `convert(object, rows, columns)` makes of it. -1: the error is set. */
static int any_buffer(PyObject *object, PyObject *convert, Py_buffer *view, char format, int ndim, Py_ssize_t rows,
                      Py_ssize_t columns)
{
    if (plain_buffer(object, view, format, ndim, rows, columns))
        return 0;
    PyObject *array = PyObject_CallFunction(convert, "Onn", object, ndim == 1 ? (Py_ssize_t)0 : rows, columns);
    if (!array)
        return -1;
    const int plain = plain_buffer(array, view, format, ndim, rows, columns);
    Py_DECREF(array);
    if (plain)
        return 0;
    PyErr_SetString(PyExc_SystemError, "a converter returned an array of another kind");
    return -1;
}

/* What a property gives of `type` ('f' float32, 'q' int64) and shape [rows, columns], or [columns] for rows 0, copying `data`:
 * see mast_runtime.arrays.answer. */
static PyObject *array_of(const void *data, size_t size, const char *type, Py_ssize_t rows, Py_ssize_t columns)
{
    PyObject *bytes = PyByteArray_FromStringAndSize(data, (Py_ssize_t)size);
    if (!bytes)
        return NULL;
    PyObject *array = PyObject_CallFunction(make_array, "Nsnn", bytes, type, rows, columns);
    return array;
}

/* act(obs, avail_actions=None). 0: the arguments are there. */
static int act_arguments(PyObject *const *args, Py_ssize_t given, PyObject *names, PyObject **obs, PyObject **avail)
{
    *obs = given > 0 ? args[0] : NULL;
    *avail = given > 1 ? args[1] : NULL;
    const Py_ssize_t named = names ? PyTuple_Size(names) : 0;
    for (Py_ssize_t i = 0; i < named; i++) {
        PyObject *name = PyTuple_GetItem(names, i), **to = NULL;
        if (PyUnicode_CompareWithASCIIString(name, "obs") == 0)
            to = obs;
        else if (PyUnicode_CompareWithASCIIString(name, "avail_actions") == 0)
            to = avail;
        if (!to || *to) {
            PyErr_Format(PyExc_TypeError, "act() got %s argument %R", to ? "twice the" : "an unexpected", name);
            return -1;
        }
        *to = args[given + i];
    }
    if (!*obs || given > 2) {
        PyErr_SetString(PyExc_TypeError, "act() takes obs and, optionally, avail_actions");
        return -1;
    }
    if (*avail == Py_None)
        *avail = NULL;
    return 0;
}

/* Words for a fault: the converters find what is wrong and raise. Always NULL. */
static PyObject *raise_fault(int fault, PyObject *obs, PyObject *avail, Py_ssize_t rows, uint32_t width, uint32_t actions)
{
    PyObject *result = NULL;
    if (fault == MAST_OBS_NOT_FINITE)
        result = PyObject_CallFunction(convert_obs, "Onn", obs, rows, (Py_ssize_t)width);
    else if (fault == MAST_NO_ACTION && avail)
        result = PyObject_CallFunction(convert_avail, "Onn", avail, rows, (Py_ssize_t)actions);
    else
        result = PyObject_CallFunctionObjArgs(overflow_error, NULL);
    if (result) {
        Py_DECREF(result);
        PyErr_SetString(PyExc_SystemError, "the kernels refused what the converters accept");
    }
    return NULL;
}

static double now(void)
{
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
