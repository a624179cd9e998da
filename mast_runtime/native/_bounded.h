/* One agent's continuous action, from what its network gives. Part of _agent.h. */

static PyObject *agent_bind(PyObject *object, PyObject *args)
{
    Agent *self = (Agent *)object;
    const mast_network *n = &self->network->net;
    return bind_arrays(&self->bound, args, 1, n->obs, n->actions);
}

static PyObject *agent_bounded(PyObject *object, PyObject *obs)
{
    Agent *self = (Agent *)object;
    const mast_network *n = &self->network->net;
    Py_buffer view;
    const uint32_t more = self->bound.more;
    if (check_bound(&self->bound) < 0 || any_buffer(obs, convert_obs, &view, 'f', 1, 0, n->obs - more) < 0)
        return NULL;
    const mast_given given = {.obs = view.buf, .last = self->bound.last.buf, .more = more};
    const int taken = agent_decide(self, mast_joined(n, &self->state, &given, 0), NULL);
    PyBuffer_Release(&view);
    if (taken < 0)
        return raise_fault(taken, obs, NULL, 0, n->obs - more, n->actions);
    act_bound(&self->bound, self->network->kernels, 1, self->state.q, n->actions);
    Py_RETURN_NONE;
}
