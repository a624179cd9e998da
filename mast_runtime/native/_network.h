/* Network: one network packed for one instruction set. Part of _native.c. */

static const mast_kernels *const all_levels[] = {
#define LEVEL(name) &mast_##name,
#include "levels.def"
#undef LEVEL
};
enum { ALL_LEVELS = sizeof all_levels / sizeof *all_levels };

/* A level that lacks a kernel is none. */
static int is_supported(const mast_kernels *level)
{
    return level->supported && level->forward && level->choose && level->count_outside && level->squash && level->search
           && level->tile && level->supported();
}

/* The named kernels, where this processor runs them, or NULL. */
static const mast_kernels *find_level(const char *name)
{
    for (size_t i = 0; i < ALL_LEVELS; i++)
        if (strcmp(all_levels[i]->name, name) == 0 && is_supported(all_levels[i]))
            return all_levels[i];
    return NULL;
}

static PyObject *level_row(const mast_kernels *level)
{
    PyObject *densities = PyTuple_New(MAST_LAYOUTS);
    for (Py_ssize_t i = 0; densities && i < MAST_LAYOUTS; i++) {
        PyObject *density = PyFloat_FromDouble(level->dense_from[i]);
        if (!density || PyTuple_SetItem(densities, i, density) < 0)
            Py_CLEAR(densities);
    }
    return densities ? Py_BuildValue("(sNI)", level->name, densities, (unsigned int)level->halves_from) : NULL;
}

static PyObject *levels(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    PyObject *rows = PyList_New(0);
    for (size_t i = 0; rows && i < ALL_LEVELS; i++) {
        PyObject *row = is_supported(all_levels[i]) ? level_row(all_levels[i]) : NULL;
        if (PyErr_Occurred() || (row && PyList_Append(rows, row) < 0))
            Py_CLEAR(rows);
        Py_XDECREF(row);
    }
    PyObject *result = rows ? PyList_AsTuple(rows) : NULL;
    Py_XDECREF(rows);
    return result;
}

typedef struct {
    PyObject_HEAD
    mast_network net;
    const mast_kernels *kernels;
    int lanes; /* packed for mast_kernels.tile */
    size_t weights;
    unsigned char *memory;
} Network;

/* Lanes run slices of their own and blocks of floats, single agents all else that the instruction set has. */
static int runs_layouts(const Network *self)
{
    const mast_matrix *const all[] = {&self->net.fc1, &self->net.gru[0], &self->net.gru[1], &self->net.fc2};
    for (int i = 0; i < 4; i++) {
        const uint32_t layout = all[i]->layout;
        const int block = layout == MAST_BLOCKS8 || layout == MAST_BLOCKS16;
        if (all[i]->panels && (self->lanes ? layout != MAST_LANE_SLICES && !block : layout == MAST_LANE_SLICES))
            return 0;
        if (all[i]->panels && !(self->kernels->dense_from[layout] > 0.0))
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

/* The kernels that packed.level names, and packed.lanes. */
static int take_level(Network *self, PyObject *packed)
{
    uint32_t lanes;
    PyObject *level = PyObject_GetAttrString(packed, "level");
    PyObject *bytes = level ? PyUnicode_AsUTF8String(level) : NULL;
    Py_XDECREF(level);
    if (!bytes || take_size(packed, "network", "lanes", 0, 1, &lanes) < 0) {
        Py_XDECREF(bytes);
        return -1;
    }
    self->lanes = (int)lanes;
    self->kernels = find_level(PyBytes_AsString(bytes));
    if (!self->kernels)
        PyErr_Format(PyExc_ValueError, "this machine cannot run level %s", PyBytes_AsString(bytes));
    Py_DECREF(bytes);
    return self->kernels ? 0 : -1;
}

/* Network(packed): a packing.PackedNetwork, whose arrays are copied. */
static PyObject *network_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)kwargs;
    PyObject *packed;
    if (!PyArg_ParseTuple(args, "O", &packed))
        return NULL;
    Network *self = (Network *)PyType_GenericAlloc(type, 0);
    if (!self)
        return NULL;
    Arena arena = {NULL, 0, 0};
    int taken = take_level(self, packed) == 0 && take_network(&arena, &self->net, packed) == 0
                && (self->memory = allocate(arena.used)) != NULL;
    if (taken) {
        arena = (Arena){self->memory, arena.used, 0};
        taken = take_network(&arena, &self->net, packed) == 0;
    }
    if (taken && !runs_layouts(self)) {
        PyErr_SetString(PyExc_ValueError, "a layout that these kernels cannot run");
        taken = 0;
    }
    if (!taken) {
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

/* One row of network_step. */
static void step_row(const Network *self, float *floats, const float *obs, int64_t action, int64_t id,
                     const float *hidden, float *to_q, float *to_hidden)
{
    const mast_network *n = &self->net;
    mast_state state;
    mast_state_init(n, &state, floats, (uint32_t)id);
    if (action >= 0)
        mast_commit(n, &state, (int32_t)action);
    memcpy(state.yh + MAST_PAD(n->fc1_size), hidden, 4 * (size_t)n->hidden);
    const int fault = self->kernels->forward(n, &state, obs);
    memcpy(to_q, state.next_q, 4 * (size_t)n->actions);
    memcpy(to_hidden, state.next, 4 * (size_t)n->hidden);
    if (fault)
        memset(to_q, 0xff, 4 * (size_t)n->actions);
}

/* Do the arguments of network_step have the shapes and the ranges that the network says? */
static int step_fits(const mast_network *n, PyObject *const array[4], Py_buffer view[4], Py_ssize_t rows)
{
    if (!plain_buffer(array[0], &view[0], 'f', 2, rows, n->obs) || !plain_buffer(array[1], &view[1], 'q', 1, 0, rows)
        || !plain_buffer(array[2], &view[2], 'q', 1, 0, rows)
        || !plain_buffer(array[3], &view[3], 'f', 2, rows, n->hidden))
        return 0;
    for (Py_ssize_t i = 0; i < rows; i++) {
        const int64_t action = ((const int64_t *)view[1].buf)[i], who = ((const int64_t *)view[2].buf)[i];
        if (action < -1 || action >= (int64_t)n->actions || who < 0 || who >= (int64_t)n->agents)
            return 0;
    }
    return 1;
}

/* step(obs [n,O] f32, last_action [n] i64, agent_id [n] i64, hidden [n,H] f32) -> (q [n,A], hidden [n,H]); rows that
 * overflow are NaN. */
static PyObject *network_step(PyObject *object, PyObject *args)
{
    const Network *self = (Network *)object;
    const mast_network *n = &self->net;
    PyObject *array[4], *result = NULL, *q = NULL, *next = NULL;
    Py_buffer view[4] = {{0}};
    float *floats = NULL;
    if (!PyArg_ParseTuple(args, "OOOO", &array[0], &array[1], &array[2], &array[3]))
        return NULL;
    const Py_ssize_t rows = PyObject_Size(array[1]);
    if (rows < 0)
        return NULL;
    if (self->lanes || !step_fits(n, array, view, rows)) {
        PyErr_SetString(PyExc_ValueError, "obs, last_action, agent_id and hidden do not fit the network");
        goto done;
    }
    q = PyByteArray_FromStringAndSize(NULL, rows * (Py_ssize_t)n->actions * 4);
    next = PyByteArray_FromStringAndSize(NULL, rows * (Py_ssize_t)n->hidden * 4);
    floats = allocate(mast_state_floats(n) * sizeof(float));
    if (!q || !next || !floats)
        goto done;
    for (Py_ssize_t i = 0; i < rows; i++)
        step_row(self, floats, (const float *)view[0].buf + i * (Py_ssize_t)n->obs, ((const int64_t *)view[1].buf)[i],
                 ((const int64_t *)view[2].buf)[i], (const float *)view[3].buf + i * (Py_ssize_t)n->hidden,
                 (float *)(void *)PyByteArray_AsString(q) + i * (Py_ssize_t)n->actions,
                 (float *)(void *)PyByteArray_AsString(next) + i * (Py_ssize_t)n->hidden);
    result = Py_BuildValue("(NN)", PyObject_CallFunction(make_array, "Osnn", q, "f", rows, (Py_ssize_t)n->actions),
                           PyObject_CallFunction(make_array, "Osnn", next, "f", rows, (Py_ssize_t)n->hidden));
done:
    release(floats);
    Py_XDECREF(q);
    Py_XDECREF(next);
    for (int i = 0; i < 4; i++)
        PyBuffer_Release(&view[i]);
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
