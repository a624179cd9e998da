/* The layout MAST_PERMUTED from rows of connections. Part of _native.c. */

enum { WINDOW_INPUTS = 32, ALL_WINDOWS = 65536 / WINDOW_INPUTS };

/* Rows one after another, as the caller's arrays. */
typedef struct {
    const uint32_t *length;
    const uint16_t *column;
    const float *value;
    Py_ssize_t panels;
} Rows;

/* height[window]: the most connections that one of a panel's rows has there. Returns their sum, the panel's entries. */
static uint32_t window_heights(const uint32_t *length, const uint16_t *column, uint32_t height[ALL_WINDOWS])
{
    uint32_t own[ALL_WINDOWS] = {0}, entries = 0;
    memset(height, 0, sizeof own);
    for (uint32_t row = 0; row < MAST_PANEL; column += length[row++]) {
        for (uint32_t i = 0; i < length[row]; i++) {
            const uint32_t window = column[i] / WINDOW_INPUTS;
            if (++own[window] > height[window])
                height[window]++, entries++;
        }
        for (uint32_t i = 0; i < length[row]; i++)
            own[column[i] / WINDOW_INPUTS] = 0;
    }
    return entries;
}

/* Fill one panel's entries; a row's connections in a window take its entries from the first one on. */
static void fill_windows(const uint32_t *length, const uint16_t *column, const float *value,
                         const uint32_t height[ALL_WINDOWS], uint16_t *columns, uint8_t *picks, float *values)
{
    uint32_t start[ALL_WINDOWS], next[ALL_WINDOWS], entry = 0;
    for (uint32_t window = 0; window < ALL_WINDOWS; window++) {
        start[window] = entry;
        for (uint32_t i = 0; i < height[window]; i++)
            columns[entry++] = (uint16_t)(window * WINDOW_INPUTS);
    }
    for (uint32_t row = 0; row < MAST_PANEL; row++) {
        memcpy(next, start, sizeof next);
        for (uint32_t i = 0; i < length[row]; i++, column++, value++) {
            const size_t at = (size_t)next[*column / WINDOW_INPUTS]++ * MAST_PANEL + row;
            picks[at] = *column % WINDOW_INPUTS;
            values[at] = *value;
        }
    }
}

static PyObject *zeros(size_t size)
{
    PyObject *bytes = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (bytes)
        memset(PyByteArray_AsString(bytes), 0, size);
    return bytes;
}

static PyObject *packed_windows(const Rows *rows)
{
    uint32_t height[ALL_WINDOWS];
    PyObject *parts[4] = {zeros((size_t)rows->panels * sizeof(uint32_t))};
    if (!parts[0])
        return NULL;
    uint32_t *const counts = (uint32_t *)(void *)PyByteArray_AsString(parts[0]);
    size_t total = 0;
    const uint16_t *column = rows->column;
    for (Py_ssize_t p = 0; p < rows->panels; p++) {
        const uint32_t *const length = rows->length + p * (Py_ssize_t)MAST_PANEL;
        total += counts[p] = window_heights(length, column, height);
        for (uint32_t row = 0; row < MAST_PANEL; row++)
            column += length[row];
    }
    parts[1] = zeros(total * sizeof(uint16_t));
    parts[2] = zeros(total * MAST_PANEL);
    parts[3] = zeros(total * MAST_PANEL * sizeof(float));
    if (!parts[1] || !parts[2] || !parts[3]) {
        for (int i = 0; i < 4; i++)
            Py_XDECREF(parts[i]);
        return NULL;
    }
    uint16_t *columns = (uint16_t *)(void *)PyByteArray_AsString(parts[1]);
    uint8_t *picks = (uint8_t *)PyByteArray_AsString(parts[2]);
    float *values = (float *)(void *)PyByteArray_AsString(parts[3]);
    const float *value = rows->value;
    column = rows->column;
    for (Py_ssize_t p = 0; p < rows->panels; p++) {
        const uint32_t *const length = rows->length + p * (Py_ssize_t)MAST_PANEL;
        window_heights(length, column, height);
        fill_windows(length, column, value, height, columns, picks, values);
        for (uint32_t row = 0; row < MAST_PANEL; row++)
            column += length[row], value += length[row];
        columns += counts[p], picks += (size_t)counts[p] * MAST_PANEL, values += (size_t)counts[p] * MAST_PANEL;
    }
    return Py_BuildValue("(NNNN)", parts[0], parts[1], parts[2], parts[3]);
}

/* pack_windows(lengths u32 [rows], columns u16, values f32) -> counts u32 [panels], columns u16, picks u8, values f32:
 * entries of whole panels of rows, as mast_network.h says, in bytearrays. */
static PyObject *pack_windows(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *arrays[3];
    Py_buffer length = {0}, column = {0}, value = {0};
    PyObject *packed = NULL;
    if (!PyArg_ParseTuple(args, "OOO", &arrays[0], &arrays[1], &arrays[2])
        || one_axis(arrays[0], 'I', "lengths", &length) < 0 || one_axis(arrays[1], 'H', "columns", &column) < 0
        || one_axis(arrays[2], 'f', "values", &value) < 0)
        goto done;
    const Py_ssize_t n = length.len / 4, connections = column.len / 2;
    const Rows rows = {length.buf, column.buf, value.buf, n / (Py_ssize_t)MAST_PANEL};
    int fits = n % (Py_ssize_t)MAST_PANEL == 0 && connections * 4 == value.len && connections < INT32_MAX;
    Py_ssize_t left = connections;
    for (Py_ssize_t i = 0; fits && i < n; i++)
        fits = (left -= rows.length[i]) >= 0;
    if (fits && left == 0)
        packed = packed_windows(&rows);
    else
        PyErr_SetString(PyExc_ValueError, "rows whose parts do not fit together");
done:
    PyBuffer_Release(&length);
    PyBuffer_Release(&column);
    PyBuffer_Release(&value);
    return packed;
}
