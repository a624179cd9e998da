/* Team: n agents stepped at once. Part of _native.c. */

#include "_group.h"

/* Memory of `n` agents with these ids. */
static int team_allocate(Team *self, const Py_buffer *ids)
{
    self->n = ids->len / 4;
    const size_t n = (size_t)self->n, q_size = n * self->actions * sizeof(float);
    const uint32_t widest = self->obs > self->actions ? self->obs : self->actions;
    if (widest && n > (size_t)PY_SSIZE_T_MAX / sizeof(uint64_t) / widest) {
        PyErr_NoMemory();
        return -1;
    }
    if (!(self->outside = allocate(n * self->obs * sizeof(uint64_t))))
        return -1;
    if (!(self->id = allocate(4 * n)) || !(self->last_action = allocate(4 * n))
        || !(self->next_action = allocate(4 * n)) || !(self->q = allocate(q_size)) || !(self->next_q = allocate(q_size))
        || !(self->groups = allocate((size_t)self->n_groups * sizeof(Group))))
        return -1;
    memcpy(self->id, ids->buf, 4 * n);
    memset(self->last_action, 0xff, 4 * n);
    return 0;
}

/* The groups, of which every agent has one; their networks say the sizes. */
static int take_groups(Team *self, PyObject *groups, const Py_buffer *ids)
{
    self->n_groups = PyTuple_Size(groups);
    PyObject *first = self->n_groups > 0 ? PyObject_GetAttrString(PyTuple_GetItem(groups, 0), "network") : NULL;
    if (!first || !PyObject_TypeCheck(first, network_type)) {
        Py_XDECREF(first);
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "a team of no group, or of a group without a packed network");
        return -1;
    }
    self->obs = ((Network *)first)->net.obs, self->actions = ((Network *)first)->net.actions;
    Py_DECREF(first);
    if (team_allocate(self, ids) < 0)
        return -1;
    Py_ssize_t members = 0;
    for (Py_ssize_t i = 0; i < self->n_groups; i++) {
        if (take_group(self, &self->groups[i], PyTuple_GetItem(groups, i)) < 0)
            return -1;
        members += self->groups[i].size;
        if (self->width < (Py_ssize_t)self->groups[i].network->net.hidden)
            self->width = self->groups[i].network->net.hidden;
    }
    if (members != self->n) {
        PyErr_Format(PyExc_ValueError, "groups of %zd agents, the team has %zd", members, self->n);
        return -1;
    }
    return 0;
}

/* Team(contract, backend, agent_ids int32 [n], groups: a tuple of native.Members) */
static PyObject *team_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"contract", "backend", "agent_ids", "groups", NULL};
    PyObject *contract, *backend, *agent_ids, *groups;
    Py_buffer ids;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOO!", names, &contract, &backend, &agent_ids, &PyTuple_Type, &groups)
        || one_axis(agent_ids, 'i', "agent_ids", &ids) < 0)
        return NULL;
    Team *self = (Team *)PyType_GenericAlloc(type, 0);
    if (self) {
        Py_INCREF(contract), Py_INCREF(backend);
        self->contract = contract, self->backend = backend;
        if (take_groups(self, groups, &ids) < 0)
            Py_CLEAR(self);
    }
    PyBuffer_Release(&ids);
    return (PyObject *)self;
}

static void team_dealloc(PyObject *object)
{
    Team *self = (Team *)object;
    PyTypeObject *type = Py_TYPE(object);
    for (Py_ssize_t i = 0; self->groups && i < self->n_groups; i++) {
        Group *g = &self->groups[i];
        Py_XDECREF((PyObject *)g->network);
        release(g->member), release(g->yh), release(g->next), release(g->work), release(g->states);
        release(g->hit), release(g->hits);
    }
    release(self->outside), release(self->groups), release(self->q), release(self->next_q);
    release(self->id), release(self->last_action), release(self->next_action);
    unbind(&self->bound);
    Py_XDECREF(self->contract);
    Py_XDECREF(self->backend);
    PyObject_Free(object);
    Py_DECREF(type);
}

/* One decision of all agents, or a mast_fault with nothing changed. */
static int team_step(Team *self, const mast_given *given)
{
    for (Py_ssize_t i = 0; i < self->n_groups; i++) {
        const int fault = group_act(self, &self->groups[i], given);
        if (fault)
            return fault;
    }
    for (Py_ssize_t i = 0; i < self->n; i++)
        if (self->next_action[i] < 0)
            return MAST_NO_ACTION;
    for (Py_ssize_t i = 0; i < self->n_groups; i++) {
        Group *g = &self->groups[i];
        float *const yh = g->yh;
        g->yh = g->next, g->next = yh;
        for (uint32_t j = 0; g->states && j < g->size; j++)
            mast_commit(&g->network->net, &g->states[j], self->next_action[g->member[j]]);
        group_count(self, g);
    }
    float *const q = self->q;
    self->q = self->next_q, self->next_q = q;
    int32_t *const action = self->last_action;
    self->last_action = self->next_action, self->next_action = action;
    return 0;
}

/* Refuses a second thread while the first computes without the GIL. */
static int team_free(const Team *self)
{
    if (self->busy)
        PyErr_SetString(PyExc_RuntimeError, "the team is acting in another thread; give each thread a team of its own");
    return !self->busy;
}

/* The last actions [n] as an answer to observations `like`, None: as a property. */
static PyObject *last_actions(const Team *self, PyObject *like)
{
    PyObject *bytes = team_free(self) ? PyByteArray_FromStringAndSize(NULL, 8 * self->n) : NULL;
    if (!bytes)
        return NULL;
    int64_t *to = (int64_t *)(void *)PyByteArray_AsString(bytes);
    for (Py_ssize_t i = 0; i < self->n; i++)
        to[i] = self->last_action[i];
    return PyObject_CallFunction(make_array, "NsnnO", bytes, "q", (Py_ssize_t)0, self->n, like);
}

static PyObject *team_last_action(PyObject *object, void *unused)
{
    (void)unused;
    return last_actions((Team *)object, Py_None);
}

/* team_step, without the GIL where that is worth it. */
static int team_decide(Team *self, const mast_given *given)
{
    int fault;
    if (self->weights < WEIGHTS_WORTH_THE_GIL)
        return team_step(self, given);
    self->busy = 1;
    Py_BEGIN_ALLOW_THREADS
    fault = team_step(self, given);
    Py_END_ALLOW_THREADS
    self->busy = 0;
    return fault;
}

static PyObject *team_act(PyObject *object, PyObject *const *args, Py_ssize_t given, PyObject *names)
{
    Team *self = (Team *)object;
    PyObject *obs, *avail;
    Py_buffer obs_view, avail_view;
    if (!team_free(self) || act_arguments(args, given, names, &obs, &avail) < 0
        || any_buffer(obs, convert_obs, &obs_view, 'f', 2, self->n, self->obs) < 0)
        return NULL;
    if (avail && any_buffer(avail, convert_avail, &avail_view, '?', 2, self->n, self->actions) < 0) {
        PyBuffer_Release(&obs_view);
        return NULL;
    }
    const int free = team_free(self); /* converters run Python: another thread may act by now */
    const mast_given seen = {.obs = obs_view.buf, .avail = avail ? avail_view.buf : NULL};
    const int fault = free ? team_decide(self, &seen) : 0;
    PyBuffer_Release(&obs_view);
    if (avail)
        PyBuffer_Release(&avail_view);
    if (!free)
        return NULL;
    return fault ? raise_fault(fault, obs, avail, self->n, self->obs, self->actions) : last_actions(self, obs);
}

/* measure(obs, rounds) -> seconds. */
static PyObject *team_measure(PyObject *object, PyObject *args)
{
    Team *self = (Team *)object;
    PyObject *obs;
    Py_ssize_t rounds;
    Py_buffer view;
    if (!team_free(self) || !PyArg_ParseTuple(args, "On", &obs, &rounds)
        || any_buffer(obs, convert_obs, &view, 'f', 2, self->n, self->obs) < 0)
        return NULL;
    if (!team_free(self)) {
        PyBuffer_Release(&view);
        return NULL;
    }
    const mast_given seen = {.obs = view.buf};
    const double start = now();
    for (Py_ssize_t i = 0; i < rounds; i++)
        team_step(self, &seen);
    const double seconds = now() - start;
    PyBuffer_Release(&view);
    return PyFloat_FromDouble(seconds);
}

/* reset(which=None): forget the episode of these agents. */
static PyObject *team_reset(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    Team *self = (Team *)object;
    Py_buffer view;
    if (!team_free(self))
        return NULL;
    PyObject *indices = PyObject_CallFunction(convert_which, "On", given > 0 ? args[0] : Py_None, self->n);
    const int fault = !indices || PyObject_GetBuffer(indices, &view, PyBUF_SIMPLE) < 0;
    Py_XDECREF(indices);
    if (fault)
        return NULL;
    if (!team_free(self)) {
        PyBuffer_Release(&view);
        return NULL;
    }
    /* next_action marks the chosen ones: it is free between decisions */
    memset(self->next_action, 0, 4 * (size_t)self->n);
    for (Py_ssize_t i = 0; i < view.len / 8; i++) {
        const int64_t who = ((const int64_t *)view.buf)[i];
        if (who >= 0 && who < self->n)
            self->next_action[who] = 1;
    }
    PyBuffer_Release(&view);
    for (Py_ssize_t i = 0; i < self->n_groups; i++) {
        Group *g = &self->groups[i];
        for (uint32_t j = 0; j < g->size; j++) {
            if (!self->next_action[g->member[j]])
                continue;
            if (g->states)
                mast_reset(&g->network->net, &g->states[j], (uint32_t)self->id[g->member[j]]);
            float *const lane = g->yh ? lane_of(g, j) : NULL;
            for (uint32_t h = 0; lane && h < g->network->net.hidden; h++)
                lane[h * MAST_LANES] = 0.0f;
        }
    }
    for (Py_ssize_t i = 0; i < self->n; i++) {
        if (self->next_action[i]) {
            self->last_action[i] = -1;
            memset(self->q + (size_t)i * self->actions, 0, self->actions * sizeof(float));
        }
    }
    Py_RETURN_NONE;
}

#include "_executed.h"
#include "_team_bounded.h"

static PyObject *team_q(PyObject *object, void *unused)
{
    (void)unused;
    const Team *self = (Team *)object;
    if (!team_free(self))
        return NULL;
    return array_of(self->q, (size_t)self->n * self->actions * sizeof(float), "f", self->n, self->actions);
}

static PyObject *team_hidden(PyObject *object, void *unused)
{
    (void)unused;
    const Team *self = (Team *)object;
    PyObject *bytes = team_free(self) ? PyByteArray_FromStringAndSize(NULL, 4 * self->n * self->width) : NULL;
    if (!bytes)
        return NULL;
    float *to = (float *)(void *)PyByteArray_AsString(bytes);
    memset(to, 0, 4u * (size_t)(self->n * self->width));
    for (Py_ssize_t i = 0; i < self->n_groups; i++) {
        const Group *g = &self->groups[i];
        const mast_network *n = &g->network->net;
        for (uint32_t j = 0; j < g->size; j++) {
            float *row = to + g->member[j] * self->width;
            const float *from = g->states ? g->states[j].yh + MAST_PAD(n->fc1_size) : lane_of(g, j);
            for (uint32_t h = 0; h < n->hidden; h++)
                row[h] = from[g->states ? h : h * MAST_LANES];
        }
    }
    return PyObject_CallFunction(make_array, "Nsnn", bytes, "f", self->n, self->width);
}

static PyMethodDef team_methods[] = {
    {"act", (PyCFunction)(void (*)(void))team_act, METH_FASTCALL | METH_KEYWORDS,
     "act(obs, avail_actions=None) -> int64 [n]\n\nGreedy actions for obs [n,O] and avail_actions [n,A] (None: all): an "
     "array of numpy for such obs, else array('q').\nRaises ObservationError, in which case the\nrecurrent state is as it was."},
    {"reset", (PyCFunction)(void (*)(void))team_reset, METH_FASTCALL,
     "reset(which=None)\n\nForget the episode, of all agents or of those in `which` (bool [n] or indices)."},
    {"executed", team_executed, METH_O,
     "executed(actions)\n\nWhat was done in place of the last decisions [n]. Raises ObservationError."},
    {"bind", team_bind, METH_VARARGS,
     "bind(last [n A], bounds [5 n A], out [n A], joins, searching)\n\nThe float32 arrays that `bounded` reads and writes, once. "
     "joins: a network's last inputs are last's.\nsearching: native.Searching, None: outputs are squashed."},
    {"bounded", team_bounded, METH_O,
     "bounded(obs)\n\nA decision; its squashed outputs, in [-1, 1] and in their units, go into last and out. Raises "
     "ObservationError."},
    {"measure", team_measure, METH_VARARGS,
     "measure(obs, rounds) -> seconds\n\nThat many decisions of the team on obs [n,O], without Python in between."},
    {0}};
static PyGetSetDef team_getset[] = {
    {"q", team_q, NULL, "Action values [n,A] of the last decision (a copy).", NULL},
    {"q_bytes", team_q_bytes, NULL, "The same as float32 in the machine's byte order, for those who have no numpy.", NULL},
    {"hidden", team_hidden, NULL, "Recurrent state [n,H] (a copy).", NULL},
    {"last_action", team_last_action, NULL, "The last actions [n], -1 before the first of an episode.", NULL},
    {"out_of_range", team_out_of_range, NULL, "Inputs so far that lay outside the range that training saw.", NULL},
    {"out_of_range_counts", team_out_of_range_counts, NULL, "The same for each agent and input [n,O] int64 (a copy).",
     NULL},
    {0}};
static PyMemberDef team_members[] = {
    {"contract", T_OBJECT, offsetof(Team, contract), READONLY, "What the policies read and write."},
    {"backend", T_OBJECT, offsetof(Team, backend), READONLY, "Name of the backend."},
    {"n", T_PYSSIZET, offsetof(Team, n), READONLY, "Agents."},
    {0}};
static PyType_Slot team_slots[] = {{Py_tp_doc, "n agents stepped at once."},
                                   {Py_tp_new, team_new},
                                   {Py_tp_dealloc, team_dealloc},
                                   {Py_tp_methods, team_methods},
                                   {Py_tp_getset, team_getset},
                                   {Py_tp_members, team_members},
                                   {0, NULL}};
static PyType_Spec team_spec = {"mast_runtime.native._native.Team", sizeof(Team), 0, Py_TPFLAGS_DEFAULT, team_slots};
