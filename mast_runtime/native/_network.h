/* Network: one network packed for one instruction set. Part of _native.c. */

/* The kernels this processor can run, best first. */
static size_t find_levels(const mast_kernels **found)
{
    size_t n = 0;
#ifdef MAST_X86_LEVELS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")
        && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("f16c"))
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

typedef struct {
    PyObject_HEAD
    mast_network net;
    const mast_kernels *kernels;
    int lanes; /* packed for mast_kernels.tile */
    size_t weights;
    unsigned char *memory;
} Network;

/* Lanes run slices of their own and blocks of floats, single agents all else; MAST_PERMUTED and halves are for AVX-512. */
static int runs_layouts(const Network *self)
{
    const mast_matrix *const all[] = {&self->net.fc1, &self->net.gru[0], &self->net.gru[1], &self->net.fc2};
    for (int i = 0; i < 4; i++) {
        const uint32_t layout = all[i]->layout;
        const int block = layout == MAST_BLOCKS8 || layout == MAST_BLOCKS16;
        if (all[i]->panels && (self->lanes ? layout != MAST_LANE_SLICES && !block : layout == MAST_LANE_SLICES))
            return 0;
        if ((layout == MAST_PERMUTED || has_halves(layout)) && strcmp(self->kernels->name, "avx512") != 0)
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
