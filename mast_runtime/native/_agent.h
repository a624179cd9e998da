/* Agent: one robot's policy. Part of _native.c. */

typedef struct {
    PyObject_HEAD
    Network *network;
    mast_state state;
    float *floats;
    uint64_t *outside, total_outside; /* [obs] */
    long index;
    PyObject *contract, *backend;
    Bound bound;
} Agent;

/* Agent(contract, network, index, backend); `index` is its one-hot id too. */
static PyObject *agent_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"contract", "network", "index", "backend", NULL};
    PyObject *contract, *network, *backend;
    long index;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO!lO", names, &contract, network_type, &network, &index, &backend))
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
    self->outside = allocate(n->obs * sizeof(uint64_t));
    if (!self->floats || !self->outside) {
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
    release(self->floats), release(self->outside), unbind(&self->bound);
    Py_XDECREF((PyObject *)self->network);
    Py_XDECREF(self->contract);
    Py_XDECREF(self->backend);
    PyObject_Free(object);
    Py_DECREF(type);
}

/* A decision, and a note of the inputs outside their range. */
static int agent_decide(Agent *self, const float *obs, const uint8_t *avail)
{
    const mast_network *n = &self->network->net;
    const int action = mast_act(self->network->kernels, n, &self->state, obs, avail);
    if (action >= 0 && self->state.outside)
        self->total_outside += self->network->kernels->count_outside(obs, n->low, n->high, n->obs, self->outside);
    return action;
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
    const int action = agent_decide(self, obs_view.buf, avail ? avail_view.buf : NULL);
    PyBuffer_Release(&obs_view);
    if (avail)
        PyBuffer_Release(&avail_view);
    return action < 0 ? raise_fault(action, obs, avail, 0, n->obs, n->actions) : PyLong_FromLong(action);
}

#include "_bounded.h"

static PyObject *agent_reset(PyObject *object, PyObject *unused)
{
    (void)unused;
    Agent *self = (Agent *)object;
    mast_reset(&self->network->net, &self->state, (uint32_t)self->index);
    Py_RETURN_NONE;
}

static PyObject *agent_executed(PyObject *object, PyObject *given)
{
    Agent *self = (Agent *)object;
    const mast_network *n = &self->network->net;
    PyObject *checked = PyObject_CallFunction(check_executed, "Oii", given, (int)self->state.last_action, (int)n->actions);
    const long action = checked ? PyLong_AsLong(checked) : -1;
    Py_XDECREF(checked);
    if (action < 0 || action >= (long)n->actions) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_SystemError, "a converter returned an action out of range");
        return NULL;
    }
    mast_executed(n, &self->state, (int32_t)action);
    Py_RETURN_NONE;
}

/* measure(obs, rounds) -> seconds: that many decisions without Python in between. */
static PyObject *agent_measure(PyObject *object, PyObject *args)
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
        agent_decide(self, view.buf, NULL);
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

static PyObject *agent_q_bytes(PyObject *object, void *unused)
{
    (void)unused;
    const Agent *self = (Agent *)object;
    return PyBytes_FromStringAndSize((const char *)self->state.q, 4 * (Py_ssize_t)self->network->net.actions);
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

static PyObject *agent_out_of_range(PyObject *object, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(((Agent *)object)->total_outside);
}

static PyObject *agent_out_of_range_counts(PyObject *object, void *unused)
{
    (void)unused;
    const Agent *self = (Agent *)object;
    const uint32_t inputs = self->network->net.obs;
    return array_of(self->outside, 8u * (size_t)inputs, "q", 0, inputs);
}

static PyMethodDef agent_methods[] = {
    {"act", (PyCFunction)(void (*)(void))agent_act, METH_FASTCALL | METH_KEYWORDS,
     "act(obs, avail_actions=None) -> int\n\nThe greedy available action for obs [O] and avail_actions [A] (None: all). "
     "Raises ObservationError, in which case\nthe recurrent state is as it was."},
    {"bind", agent_bind, METH_VARARGS,
     "bind(last [A], bounds [5 size], out [size], joins, searching)\n\nThe float32 arrays that `bounded` reads and writes, once. "
     "joins: the network's last inputs are last's.\nsearching: native.Searching, None: outputs are squashed."},
    {"bounded", agent_bounded, METH_O,
     "bounded(obs)\n\nA decision; its squashed outputs, in [-1, 1] and in their units, go into last and out. Raises "
     "ObservationError."},
    {"reset", agent_reset, METH_NOARGS, "Forget the episode: zero memory, no last action."},
    {"executed", agent_executed, METH_O,
     "executed(action)\n\nWhat was done in place of the last decision: the last action of the next one. Raises "
     "ObservationError."},
    {"measure", agent_measure, METH_VARARGS,
     "measure(obs, rounds) -> seconds\n\nThat many decisions on obs [O], without Python in between."},
    {0}};
static PyGetSetDef agent_getset[] = {
    {"q", agent_q, NULL, "Action values [A] of the last decision (a copy).", NULL},
    {"q_bytes", agent_q_bytes, NULL, "The same as float32 in the machine's byte order, for those who have no numpy.", NULL},
    {"hidden", agent_hidden, NULL, "Recurrent state [H] (a copy).", NULL},
    {"last_action", agent_last_action, NULL, "The last action chosen or executed, -1 before the first of an episode.",
     NULL},
    {"out_of_range", agent_out_of_range, NULL, "Inputs so far that lay outside the range that training saw.", NULL},
    {"out_of_range_counts", agent_out_of_range_counts, NULL, "The same for each input [O] int64 (a copy).", NULL},
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
