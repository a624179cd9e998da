/* A team's continuous actions, from what its networks give. Part of _team.h. */

static PyObject *team_bind(PyObject *object, PyObject *args)
{
    Team *self = (Team *)object;
    return bind_arrays(&self->bound, args, self->n, self->obs, self->actions);
}

static PyObject *team_bounded(PyObject *object, PyObject *obs)
{
    Team *self = (Team *)object;
    Py_buffer view;
    const uint32_t more = self->bound.more, width = self->obs - more;
    if (!team_free(self) || check_bound(&self->bound) < 0
        || any_buffer(obs, convert_obs, &view, 'f', 2, self->n, width) < 0)
        return NULL;
    const mast_given given = {.obs = view.buf, .last = self->bound.last.buf, .more = more};
    const int free = team_free(self); /* a converter runs Python: another thread may act by now */
    const int fault = free ? team_decide(self, &given) : 0;
    PyBuffer_Release(&view);
    if (!free)
        return NULL;
    if (fault)
        return raise_fault(fault, obs, NULL, self->n, width, self->actions);
    const mast_kernels *const kernels = self->groups[0].network->kernels;
    if (!self->bound.searching || self->bound.searching->numbers < WEIGHTS_WORTH_THE_GIL) {
        act_bound(&self->bound, kernels, self->n, self->q, self->actions);
        Py_RETURN_NONE;
    }
    self->busy = 1;
    Py_BEGIN_ALLOW_THREADS
    act_bound(&self->bound, kernels, self->n, self->q, self->actions);
    Py_END_ALLOW_THREADS
    self->busy = 0;
    Py_RETURN_NONE;
}
