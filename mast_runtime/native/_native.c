/* The extension: networks packed for one instruction set, and the agents and teams that run them.
 *
 * Only mast_runtime.native calls the constructors; it passes numpy arrays of the right types. Whatever the caller of
 * `act` gives that is not a plain C-contiguous array goes to the converters of mast_runtime.agent, which also word the
 * errors.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mast.h"

#define ALIGNMENT 64u
/* A GIL given up is got back up to milliseconds later where other threads compute: only for work as long as that. */
#define WEIGHTS_WORTH_THE_GIL (1u << 22)

static PyObject *convert_obs, *convert_avail, *convert_which, *make_array, *overflow_error;
static PyTypeObject *network_type, *agent_type, *team_type;

/* ---------------------------------------------------------------------------------------------------- memory, buffers */

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

/* A C-contiguous, aligned buffer of `format` with ndim axes of these sizes. 0: something else, no error set. */
static int plain_buffer(PyObject *object, Py_buffer *view, char format, int ndim, Py_ssize_t rows, Py_ssize_t columns)
{
    if (PyObject_GetBuffer(object, view, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) < 0) {
        PyErr_Clear();
        return 0;
    }
    if (view->format && view->format[0] == format && !view->format[1] && view->ndim == ndim
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

/* A numpy array of `type` ('f' float32, 'q' int64) and shape [rows, columns], or [columns] for rows 0, copying `data`. */
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

/* ------------------------------------------------------------------------------------------------------------- levels */

/* The kernels this processor can run, best first. */
static size_t find_levels(const mast_kernels **found)
{
    size_t n = 0;
#ifdef MAST_X86_LEVELS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")
        && __builtin_cpu_supports("avx512vl"))
        found[n++] = &mast_v4;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        found[n++] = &mast_v3;
#endif
    found[n++] = &mast_generic;
    return n;
}

static PyObject *levels(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    const mast_kernels *found[3];
    const size_t n = find_levels(found);
    PyObject *names = PyTuple_New((Py_ssize_t)n);
    for (size_t i = 0; names && i < n; i++) {
        PyObject *name = PyUnicode_FromString(found[i]->name);
        if (!name || PyTuple_SetItem(names, (Py_ssize_t)i, name) < 0)
            Py_CLEAR(names);
    }
    return names;
}

/* ------------------------------------------------------------------------------------------------------------ Network */

typedef struct {
    PyObject_HEAD
    mast_network net;
    const mast_kernels *kernels;
    int lanes; /* packed for mast_kernels.tile */
    size_t weights;
    unsigned char *memory;
} Network;

/* Copies of the caller's arrays, one after another in aligned memory. */
typedef struct {
    unsigned char *next;
    size_t used;
} Arena;

/* The next argument array, `count` items of `size` bytes (-1: any number, returned in *count). NULL: error set. With
 * an arena without memory only the size is added up. */
static const void *take(Arena *arena, PyObject *object, size_t size, Py_ssize_t *count)
{
    Py_buffer view;
    if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    const size_t length = ((size_t)view.len + ALIGNMENT - 1u) & ~(size_t)(ALIGNMENT - 1u);
    const void *at = arena->next ? (const void *)(arena->next + arena->used) : (const void *)"";
    if (view.len % (Py_ssize_t)size || (*count >= 0 && view.len != *count * (Py_ssize_t)size)) {
        PyErr_SetString(PyExc_ValueError, "an array of another size than the network says");
        at = NULL;
    } else if (arena->next && view.len) {
        memcpy(arena->next + arena->used, view.buf, (size_t)view.len);
    }
    *count = view.len / (Py_ssize_t)size;
    arena->used += length;
    PyBuffer_Release(&view);
    return at;
}

static uint32_t panel_rows(uint32_t layout)
{
    static const uint8_t rows[] = {16, 8, 1, 8, 16, 16};
    return layout < sizeof rows ? rows[layout] : 0;
}

/* How many items each array of a matrix must have. */
typedef struct {
    Py_ssize_t columns, rows, picks, values;
} Sizes;

/* Is every index of the matrix within `inputs` and `rows`, every array as long as the layout says? */
static int matrix_valid(const mast_matrix *m, uint32_t rows, uint32_t inputs, Sizes found)
{
    const uint32_t height = panel_rows(m->layout);
    if (!height || m->panels * height != rows || m->start[0] != 0 || m->offset > inputs)
        return 0;
    for (uint32_t p = 0; p < m->panels; p++)
        if (m->start[p] > m->start[p + 1])
            return 0;
    const Py_ssize_t entries = m->start[m->panels];
    const Sizes expected = {m->layout == MAST_DENSE ? m->panels : m->layout == MAST_SLICES ? 8 * entries : entries,
                            m->layout == MAST_SLICES ? rows : 0, m->layout == MAST_PERMUTED ? 16 * entries : 0,
                            entries * (Py_ssize_t)height};
    if (memcmp(&found, &expected, sizeof found) != 0)
        return 0;
    for (Py_ssize_t i = 0; i < found.columns; i++) {
        const uint32_t width = m->layout == MAST_DENSE ? m->start[i + 1] - m->start[i] : 1u;
        if (m->offset + m->columns[i] + width > inputs)
            return 0;
    }
    for (Py_ssize_t i = 0; i < found.rows; i++)
        if (m->rows[i] >= rows)
            return 0;
    for (Py_ssize_t i = 0; i < found.picks; i++)
        if (m->picks[i] >= 32 || m->offset + m->columns[i / 16] + m->picks[i] >= inputs)
            return 0;
    return 1;
}

/* (layout, offset, start, columns, rows, picks, values) for a matrix of `rows` padded rows; () for none. */
static int take_matrix(Arena *arena, PyObject *tuple, mast_matrix *m, uint32_t rows, uint32_t inputs)
{
    memset(m, 0, sizeof *m);
    if (PyTuple_Size(tuple) == 0)
        return 0;
    unsigned int layout, offset;
    PyObject *start, *columns, *row, *picks, *values;
    if (!PyArg_ParseTuple(tuple, "IIOOOOO", &layout, &offset, &start, &columns, &row, &picks, &values))
        return -1;
    Py_ssize_t n_start = -1;
    Sizes found = {-1, -1, -1, -1};
    m->layout = layout;
    m->offset = offset;
    if (!(m->start = take(arena, start, sizeof(uint32_t), &n_start))
        || !(m->columns = take(arena, columns, sizeof(uint16_t), &found.columns))
        || !(m->rows = take(arena, row, sizeof(uint16_t), &found.rows))
        || !(m->picks = take(arena, picks, 1, &found.picks))
        || !(m->values = take(arena, values, sizeof(float), &found.values)))
        return -1;
    m->panels = n_start > 1 ? (uint32_t)n_start - 1u : 0u;
    if (n_start < 2 || (arena->next && !matrix_valid(m, rows, inputs, found))) {
        PyErr_SetString(PyExc_ValueError, "a matrix whose parts do not fit together");
        return -1;
    }
    return 0;
}

static int take_network(Arena *arena, mast_network *n, PyObject *biases, PyObject *matrices)
{
    PyObject *fc1_bias, *gru_bias, *fc2_bias, *fc1, *gru, *more, *fc2;
    if (!PyArg_ParseTuple(biases, "OOO", &fc1_bias, &gru_bias, &fc2_bias)
        || !PyArg_ParseTuple(matrices, "OOOO", &fc1, &gru, &more, &fc2))
        return -1;
    const uint32_t hidden = MAST_PAD(n->hidden), y = MAST_PAD(n->fc1_size), actions = MAST_PAD(n->actions);
    Py_ssize_t n_fc1 = y, n_gru = 4 * (Py_ssize_t)hidden, n_fc2 = actions;
    if (take_matrix(arena, fc1, &n->fc1, y, mast_inputs(n)) < 0
        || !(n->fc1_bias = take(arena, fc1_bias, sizeof(float), &n_fc1))
        || take_matrix(arena, gru, &n->gru[0], 4 * hidden, y + hidden) < 0
        || take_matrix(arena, more, &n->gru[1], 4 * hidden, y + hidden) < 0
        || !(n->gru_bias = take(arena, gru_bias, sizeof(float), &n_gru))
        || take_matrix(arena, fc2, &n->fc2, actions, hidden) < 0
        || !(n->fc2_bias = take(arena, fc2_bias, sizeof(float), &n_fc2)))
        return -1;
    return 0;
}

/* Lanes run rows and blocks, single agents all but rows; MAST_PERMUTED is for AVX-512. */
static int runs_layouts(const Network *self)
{
    const mast_matrix *const all[] = {&self->net.fc1, &self->net.gru[0], &self->net.gru[1], &self->net.fc2};
    for (int i = 0; i < 4; i++) {
        const uint32_t layout = all[i]->layout;
        const int block = layout == MAST_BLOCKS8 || layout == MAST_BLOCKS16;
        if (all[i]->panels && (self->lanes ? layout != MAST_ROWS && !block : layout == MAST_ROWS))
            return 0;
        if (layout == MAST_PERMUTED && strcmp(self->kernels->name, "avx512") != 0)
            return 0;
    }
    return self->net.fc1.panels && self->net.gru[0].panels && self->net.fc2.panels;
}

static size_t count_weights(const mast_network *n)
{
    const mast_matrix *const all[] = {&n->fc1, &n->gru[0], &n->gru[1], &n->fc2};
    size_t total = 0;
    for (int i = 0; i < 4; i++)
        if (all[i]->panels)
            total += (size_t)all[i]->start[all[i]->panels] * panel_rows(all[i]->layout);
    return total;
}

static PyObject *network_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)kwargs;
    const char *level;
    int lanes;
    unsigned int d[7];
    PyObject *biases, *matrices;
    if (!PyArg_ParseTuple(args, "sp(IIIIIII)OO", &level, &lanes, &d[0], &d[1], &d[2], &d[3], &d[4], &d[5], &d[6],
                          &biases, &matrices))
        return NULL;
    Network *self = (Network *)PyType_GenericAlloc(type, 0);
    if (!self)
        return NULL;
    self->lanes = lanes;
    self->net = (mast_network){.obs = d[0], .actions = d[1], .agents = d[2], .last_action = d[3], .agent_id = d[4],
                               .fc1_size = d[5], .hidden = d[6]};
    const mast_kernels *found[3];
    for (size_t i = find_levels(found); i-- > 0;)
        if (strcmp(found[i]->name, level) == 0)
            self->kernels = found[i];
    Arena arena = {NULL, 0};
    if (!self->kernels)
        PyErr_Format(PyExc_ValueError, "this machine cannot run level %s", level);
    else if (take_network(&arena, &self->net, biases, matrices) == 0
             && (self->memory = allocate(arena.used)) != NULL) {
        arena = (Arena){self->memory, 0};
        take_network(&arena, &self->net, biases, matrices);
    }
    if (!PyErr_Occurred() && !runs_layouts(self))
        PyErr_SetString(PyExc_ValueError, "a layout that these kernels cannot run");
    if (PyErr_Occurred()) {
        Py_DECREF(self);
        return NULL;
    }
    self->weights = count_weights(&self->net);
    return (PyObject *)self;
}

static void network_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    release(((Network *)object)->memory);
    PyObject_Free(object);
    Py_DECREF(type);
}

/* step(obs [n,O] f32, last_action [n] i64, agent_id [n] i64, hidden [n,H] f32) -> (q [n,A], hidden [n,H]); rows that
 * overflow are NaN. */
static PyObject *network_step(PyObject *object, PyObject *args)
{
    const Network *self = (Network *)object;
    const mast_network *n = &self->net;
    Py_buffer obs, last, id, hidden;
    if (!PyArg_ParseTuple(args, "y*y*y*y*", &obs, &last, &id, &hidden))
        return NULL;
    const Py_ssize_t rows = last.len / 8;
    PyObject *result = NULL, *q = PyByteArray_FromStringAndSize(NULL, rows * (Py_ssize_t)n->actions * 4);
    PyObject *next = PyByteArray_FromStringAndSize(NULL, rows * (Py_ssize_t)n->hidden * 4);
    float *floats = allocate(mast_state_floats(n) * sizeof(float));
    if (!q || !next || !floats)
        goto done;
    int valid = !self->lanes && last.len == 8 * rows && id.len == 8 * rows
                && obs.len == 4 * rows * (Py_ssize_t)n->obs && hidden.len == 4 * rows * (Py_ssize_t)n->hidden;
    for (Py_ssize_t i = 0; valid && i < rows; i++) {
        const int64_t action = ((const int64_t *)last.buf)[i], who = ((const int64_t *)id.buf)[i];
        valid = action >= -1 && action < (int64_t)n->actions && who >= 0 && who < (int64_t)n->agents;
    }
    if (!valid) {
        PyErr_SetString(PyExc_ValueError, "obs, last_action, agent_id and hidden do not fit the network");
        goto done;
    }
    mast_state state;
    for (Py_ssize_t i = 0; i < rows; i++) {
        float *to_q = (float *)PyByteArray_AsString(q) + i * (Py_ssize_t)n->actions;
        float *to_hidden = (float *)PyByteArray_AsString(next) + i * (Py_ssize_t)n->hidden;
        const int64_t action = ((const int64_t *)last.buf)[i];
        mast_state_init(n, &state, floats, (uint32_t)((const int64_t *)id.buf)[i]);
        if (action >= 0)
            mast_commit(n, &state, (int32_t)action);
        memcpy(state.yh + MAST_PAD(n->fc1_size), (const float *)hidden.buf + i * (Py_ssize_t)n->hidden, 4 * n->hidden);
        const int fault = self->kernels->forward(n, &state, (const float *)obs.buf + i * (Py_ssize_t)n->obs);
        memcpy(to_q, state.next_q, 4 * n->actions);
        memcpy(to_hidden, state.next, 4 * n->hidden);
        if (fault)
            memset(to_q, 0xff, 4 * n->actions);
    }
    result = Py_BuildValue("(NN)", PyObject_CallFunction(make_array, "Osnn", q, "f", rows, (Py_ssize_t)n->actions),
                           PyObject_CallFunction(make_array, "Osnn", next, "f", rows, (Py_ssize_t)n->hidden));
done:
    release(floats);
    Py_XDECREF(q);
    Py_XDECREF(next);
    PyBuffer_Release(&obs);
    PyBuffer_Release(&last);
    PyBuffer_Release(&id);
    PyBuffer_Release(&hidden);
    return result;
}

static PyObject *network_level(PyObject *self, void *unused)
{
    (void)unused;
    return PyUnicode_FromString(((Network *)self)->kernels->name);
}

static PyObject *network_size(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromSize_t(((Network *)self)->weights);
}

static PyMethodDef network_methods[] = {
    {"step", network_step, METH_VARARGS, "step(obs, last_action, agent_id, hidden) -> (q, hidden)"}, {0}};
static PyGetSetDef network_getset[] = {
    {"level", network_level, NULL, "Instruction set of the kernels.", NULL},
    {"stored_weights", network_size, NULL, "Weights in the packed matrices, padding included.", NULL},
    {0}};
static PyType_Slot network_slots[] = {{Py_tp_new, network_new}, {Py_tp_dealloc, network_dealloc},
                                      {Py_tp_methods, network_methods}, {Py_tp_getset, network_getset}, {0, NULL}};
static PyType_Spec network_spec = {"mast_runtime.native._native.Network", sizeof(Network), 0, Py_TPFLAGS_DEFAULT,
                                   network_slots};

/* -------------------------------------------------------------------------------------------------------------- Agent */

typedef struct {
    PyObject_HEAD
    Network *network;
    mast_state state;
    float *floats;
    long index;
    PyObject *contract, *backend;
} Agent;

static PyObject *agent_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)kwargs;
    PyObject *contract, *network, *backend;
    long index;
    if (!PyArg_ParseTuple(args, "OO!lO", &contract, network_type, &network, &index, &backend))
        return NULL;
    const mast_network *n = &((Network *)network)->net;
    if (((Network *)network)->lanes || index < 0 || index >= (long)n->agents) {
        PyErr_SetString(PyExc_ValueError, "a network or an index that an agent cannot have");
        return NULL;
    }
    Agent *self = (Agent *)PyType_GenericAlloc(type, 0);
    if (!self)
        return NULL;
    Py_INCREF(network), Py_INCREF(contract), Py_INCREF(backend);
    self->network = (Network *)network, self->contract = contract, self->backend = backend, self->index = index;
    self->floats = allocate(mast_state_floats(n) * sizeof(float));
    if (!self->floats) {
        Py_DECREF(self);
        return NULL;
    }
    mast_state_init(n, &self->state, self->floats, (uint32_t)index);
    return (PyObject *)self;
}

static void agent_dealloc(PyObject *object)
{
    Agent *self = (Agent *)object;
    PyTypeObject *type = Py_TYPE(object);
    release(self->floats);
    Py_XDECREF((PyObject *)self->network);
    Py_XDECREF(self->contract);
    Py_XDECREF(self->backend);
    PyObject_Free(object);
    Py_DECREF(type);
}

static PyObject *agent_act(PyObject *object, PyObject *const *args, Py_ssize_t given, PyObject *names)
{
    Agent *self = (Agent *)object;
    const mast_network *n = &self->network->net;
    PyObject *obs, *avail;
    Py_buffer obs_view, avail_view;
    if (act_arguments(args, given, names, &obs, &avail) < 0
        || any_buffer(obs, convert_obs, &obs_view, 'f', 1, 0, n->obs) < 0)
        return NULL;
    if (avail && any_buffer(avail, convert_avail, &avail_view, '?', 1, 0, n->actions) < 0) {
        PyBuffer_Release(&obs_view);
        return NULL;
    }
    const int action = mast_act(self->network->kernels, n, &self->state, obs_view.buf, avail ? avail_view.buf : NULL);
    PyBuffer_Release(&obs_view);
    if (avail)
        PyBuffer_Release(&avail_view);
    return action < 0 ? raise_fault(action, obs, avail, 0, n->obs, n->actions) : PyLong_FromLong(action);
}

static PyObject *agent_reset(PyObject *object, PyObject *unused)
{
    (void)unused;
    Agent *self = (Agent *)object;
    mast_reset(&self->network->net, &self->state, (uint32_t)self->index);
    Py_RETURN_NONE;
}

/* _bench(obs, rounds) -> seconds: that many decisions without Python in between. */
static PyObject *agent_bench(PyObject *object, PyObject *args)
{
    Agent *self = (Agent *)object;
    PyObject *obs;
    Py_ssize_t rounds;
    Py_buffer view;
    if (!PyArg_ParseTuple(args, "On", &obs, &rounds)
        || any_buffer(obs, convert_obs, &view, 'f', 1, 0, self->network->net.obs) < 0)
        return NULL;
    const double start = now();
    for (Py_ssize_t i = 0; i < rounds; i++)
        mast_act(self->network->kernels, &self->network->net, &self->state, view.buf, NULL);
    const double seconds = now() - start;
    PyBuffer_Release(&view);
    return PyFloat_FromDouble(seconds);
}

static PyObject *agent_q(PyObject *object, void *unused)
{
    (void)unused;
    const Agent *self = (Agent *)object;
    const uint32_t actions = self->network->net.actions;
    return array_of(self->state.q, 4u * (size_t)actions, "f", 0, actions);
}

static PyObject *agent_hidden(PyObject *object, void *unused)
{
    (void)unused;
    const Agent *self = (Agent *)object;
    const mast_network *n = &self->network->net;
    return array_of(self->state.yh + MAST_PAD(n->fc1_size), 4u * (size_t)n->hidden, "f", 0, n->hidden);
}

static PyObject *agent_last_action(PyObject *object, void *unused)
{
    (void)unused;
    return PyLong_FromLong(((Agent *)object)->state.last_action);
}

static PyMethodDef agent_methods[] = {
    {"act", (PyCFunction)(void (*)(void))agent_act, METH_FASTCALL | METH_KEYWORDS,
     "act(obs, avail_actions=None) -> int\n\nThe greedy available action for obs [O] and avail_actions [A] (None: all). "
     "Raises ObservationError, in which case\nthe recurrent state is as it was."},
    {"reset", agent_reset, METH_NOARGS, "Forget the episode: zero memory, no last action."},
    {"_bench", agent_bench, METH_VARARGS, "_bench(obs, rounds) -> seconds"},
    {0}};
static PyGetSetDef agent_getset[] = {
    {"q", agent_q, NULL, "Action values [A] of the last decision (a copy).", NULL},
    {"hidden", agent_hidden, NULL, "Recurrent state [H] (a copy).", NULL},
    {"last_action", agent_last_action, NULL, "The last action chosen, -1 before the first of an episode.", NULL},
    {0}};
static PyMemberDef agent_members[] = {
    {"contract", T_OBJECT, offsetof(Agent, contract), READONLY, "What the policy reads and writes."},
    {"backend", T_OBJECT, offsetof(Agent, backend), READONLY, "Name of the backend."},
    {"index", T_LONG, offsetof(Agent, index), READONLY, "Position in the team."},
    {0}};
static PyType_Slot agent_slots[] = {{Py_tp_doc, "One robot's policy: its network, its memory, its last action."},
                                    {Py_tp_new, agent_new},
                                    {Py_tp_dealloc, agent_dealloc},
                                    {Py_tp_methods, agent_methods},
                                    {Py_tp_getset, agent_getset},
                                    {Py_tp_members, agent_members},
                                    {0, NULL}};
static PyType_Spec agent_spec = {"mast_runtime.native._native.Agent", sizeof(Agent), 0, Py_TPFLAGS_DEFAULT, agent_slots};

#include "_team.h"

/* ------------------------------------------------------------------------------------------------------------- module */

/* configure(convert_obs, convert_avail, convert_which, make_array, overflow_error): the Python functions this module calls. */
static PyObject *configure(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *f[5], **const to[5] = {&convert_obs, &convert_avail, &convert_which, &make_array, &overflow_error};
    if (!PyArg_ParseTuple(args, "OOOOO", &f[0], &f[1], &f[2], &f[3], &f[4]))
        return NULL;
    for (int i = 0; i < 5; i++) {
        PyObject *old = *to[i];
        Py_INCREF(f[i]);
        *to[i] = f[i];
        Py_XDECREF(old);
    }
    Py_RETURN_NONE;
}

static PyMethodDef module_methods[] = {{"configure", configure, METH_VARARGS, "Set the functions this module calls."},
                                       {"levels", levels, METH_NOARGS, "Instruction sets this machine runs, best first."},
                                       {0}};
static struct PyModuleDef module_def = {
    .m_base = PyModuleDef_HEAD_INIT, .m_name = "_native", .m_size = -1, .m_methods = module_methods};

static PyTypeObject *add_type(PyObject *module, const char *name, PyType_Spec *spec)
{
    PyObject *type = PyType_FromSpec(spec);
    if (!type || PyModule_AddObjectRef(module, name, type) < 0) {
        Py_XDECREF(type);
        return NULL;
    }
    return (PyTypeObject *)type;
}

PyMODINIT_FUNC PyInit__native(void)
{
    PyObject *module = PyModule_Create(&module_def);
    if (module
        && (!(network_type = add_type(module, "Network", &network_spec))
            || !(agent_type = add_type(module, "Agent", &agent_spec))
            || !(team_type = add_type(module, "Team", &team_spec))
            || PyModule_AddIntConstant(module, "PANEL", MAST_PANEL) < 0
            || PyModule_AddIntConstant(module, "LANES", MAST_LANES) < 0))
        Py_CLEAR(module);
    return module;
}
