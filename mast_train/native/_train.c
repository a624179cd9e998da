/* The extension module: addresses and sizes in, work spread over threads. Callers check shapes; see __init__.py. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "calls.h"

#include <stdlib.h>
#include <string.h>

static const char NETWORK[] = "mast_train.native.network";

const train_kernels *train_level(const char *name)
{
    const train_kernels *all[] = {
#ifdef TRAIN_X86_LEVELS
        &train_v4, &train_v3,
#endif
        &train_generic};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!strcmp(all[i]->level, name))
            return all[i];
    return NULL;
}

static PyObject *levels(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
#ifdef TRAIN_X86_LEVELS
    const int v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return Py_BuildValue("(sss)", train_v4.level, train_v3.level, train_generic.level);
    if (v3)
        return Py_BuildValue("(ss)", train_v3.level, train_generic.level);
#endif
    return Py_BuildValue("(s)", train_generic.level);
}

static void release(PyObject *capsule) { train_free(PyCapsule_GetPointer(capsule, NETWORK)); }

static PyObject *build(PyObject *self, PyObject *args)
{
    (void)self;
    int groups, inputs, hidden, actions;
    unsigned long long mask[4];
    if (!PyArg_ParseTuple(args, "iiii(KKKK)", &groups, &inputs, &hidden, &actions, mask, mask + 1, mask + 2, mask + 3))
        return NULL;
    const uint8_t *at[4];
    for (int i = 0; i < 4; i++)
        at[i] = (const uint8_t *)(uintptr_t)mask[i];
    train_network *network;
    Py_BEGIN_ALLOW_THREADS
    network = train_build(groups, inputs, hidden, actions, at);
    Py_END_ALLOW_THREADS
    return network ? PyCapsule_New(network, NETWORK, release) : PyErr_NoMemory();
}

static PyObject *saved_size(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *capsule;
    int steps;
    if (!PyArg_ParseTuple(args, "Oi", &capsule, &steps))
        return NULL;
    const train_network *network = PyCapsule_GetPointer(capsule, NETWORK);
    return network ? PyLong_FromSize_t(train_saved_size(network, steps)) : NULL;
}

static PyObject *connections(PyObject *self, PyObject *capsule)
{
    (void)self;
    const train_network *n = PyCapsule_GetPointer(capsule, NETWORK);
    size_t sum = 0;
    for (int32_t g = 0; n && g < n->topologies; g++)
        sum += train_values(&n->topology[g]);
    return n ? PyLong_FromSize_t(sum) : NULL;
}

/* Sums of the tiles' gradients in the order of the tiles, into the parameters' gradients, at the
 * connections only. */
static void collect(const train_call *c, float *const grad[PARAMETERS])
{
    const size_t h = (size_t)c->network->hidden, in = (size_t)c->network->inputs, a = (size_t)c->network->actions;
    const int32_t tiles = train_tiles(c);
    for (size_t g = 0; g < (size_t)c->groups; g++) {
        const train_topology *t = train_topology_of(c->gradients, (int32_t)g);
        const size_t size = train_gradient_size(c->network, t);
        float *sum = c->partial + g * (size_t)tiles * c->partial_size;
        for (int32_t tile = 1; tile < tiles; tile++)
            for (size_t i = 0; i < size; i++)
                sum[i] += sum[(size_t)tile * c->partial_size + i];
        train_scatter(&t->fc1, sum, grad[FC1_WEIGHT] + g * h * in, NULL, INT32_MAX);
        sum += t->fc1.values;
        train_scatter(&t->gru, sum, grad[WEIGHT_IH] + g * 3 * h * h, grad[WEIGHT_HH] + g * 3 * h * h, (int32_t)(3 * h * h));
        sum += t->gru.values;
        train_scatter(&t->fc2, sum, grad[FC2_WEIGHT] + g * a * h, NULL, INT32_MAX);
        sum += t->fc2.values;
        memcpy(grad[FC1_BIAS] + g * h, sum, h * sizeof(float));
        sum += h;
        memcpy(grad[BIAS_IH] + g * 3 * h, sum, 3 * h * sizeof(float));
        memcpy(grad[BIAS_HH] + g * 3 * h, sum, 2 * h * sizeof(float));
        memcpy(grad[BIAS_HH] + g * 3 * h + 2 * h, sum + 3 * h, h * sizeof(float));
        memcpy(grad[FC2_BIAS] + g * a, sum + 4 * h, a * sizeof(float));
    }
}

/* ---- calls ---- */

#define ADDRESSES "(KKKKKKKK)"
#define LOCATED "K(nnn)"
#define INPUTS "(" LOCATED "i" LOCATED "iiKKK)"
#define STRIDES(tensor) &(tensor).step, &(tensor).batch, &(tensor).agent
#define EIGHT(a) a, a + 1, a + 2, a + 3, a + 4, a + 5, a + 6, a + 7

static void set_parameters(train_call *call, const unsigned long long from[PARAMETERS])
{
    for (int i = 0; i < PARAMETERS; i++)
        call->parameter[i] = address(from[i]);
}

/* inputs: x, its strides, observed, actions, their strides, one-hot, identity, order, length, first */
typedef struct {
    unsigned long long x, actions, order, length, first;
} input_addresses;

#define READ_INPUTS(c, from)                                                                                           \
    &(from).x, STRIDES((c).x), &(c).observed, &(from).actions, STRIDES((c).action), &(c).one_hot, &(c).identity,       \
        &(from).order, &(from).length, &(from).first

static void set_inputs(train_call *c, const input_addresses *from)
{
    c->x.data = address(from->x), c->actions = address(from->actions);
    c->order = address(from->order), c->length = address(from->length), c->first = address(from->first);
}

/* One network's pass from (network, parameters, q, q strides, taken, now, after, initial, final, saved). */
static int read_pass(PyObject *from, train_call *c)
{
    PyObject *capsule;
    unsigned long long p[PARAMETERS], q, taken, now, after, initial, final, saved;
    if (!PyArg_ParseTuple(from, "O" ADDRESSES LOCATED "KKKKKK", &capsule, EIGHT(p), &q, STRIDES(c->q), &taken, &now,
                          &after, &initial, &final, &saved))
        return 0;
    c->network = PyCapsule_GetPointer(capsule, NETWORK);
    set_parameters(c, p);
    c->q.data = address(q), c->taken = address(taken), c->now = address(now), c->after = address(after);
    c->initial = address(initial), c->final = address(final), c->saved = address(saved);
    return c->network != NULL;
}

/* forward(level, threads, (groups, T, B, N, seeds), inputs, (pass, ...)), of one to TRAIN_PASSES networks */
static PyObject *forward(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *passes;
    const char *level;
    int threads, done;
    train_call c[TRAIN_PASSES] = {{0}};
    input_addresses inputs;
    if (!PyArg_ParseTuple(args, "si(iiiii)" INPUTS "O", &level, &threads, &c[0].groups, &c[0].steps, &c[0].batch,
                          &c[0].agents, &c[0].seeds, READ_INPUTS(c[0], inputs), &passes))
        return NULL;
    const Py_ssize_t count = PyTuple_Size(passes);
    if (count < 1 || count > TRAIN_PASSES)
        return count < 0 ? NULL : PyErr_Format(PyExc_ValueError, "%zd passes, expected 1 to %d", count, TRAIN_PASSES);
    set_inputs(&c[0], &inputs);
    size_t work = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (i > 0) {
            c[i] = c[0];
            c[i].beside = NULL;
            c[i - 1].beside = &c[i];
        }
        if (!read_pass(PyTuple_GetItem(passes, i), &c[i]))
            return NULL;
        work += train_work_size(&c[i]);
    }
    const train_kernels *kernels = train_level(level);
    Py_BEGIN_ALLOW_THREADS
    done = train_run(kernels->forward, c, c->groups * train_tiles(c), work, threads);
    Py_END_ALLOW_THREADS
    return done ? Py_NewRef(Py_None) : PyErr_NoMemory();
}

static int make_partial(train_call *c)
{
    for (int32_t g = 0; g < c->groups; g++) {
        const size_t size = train_gradient_size(c->network, train_topology_of(c->gradients, g));
        c->partial_size = c->partial_size > size ? c->partial_size : size;
    }
    c->partial = malloc(c->partial_size * (size_t)c->groups * (size_t)train_tiles(c) * sizeof(float));
    return c->partial != NULL;
}

/* backward(network, gradients' network, level, threads, (groups, T, B, N, seeds), parameters, inputs, gradient of q, its
 * strides, of the values taken, saved, parameters' gradients) */
static PyObject *backward(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *capsule, *wanted;
    const char *level;
    int threads, done = 0;
    train_call c = {0};
    input_addresses inputs;
    unsigned long long p[PARAMETERS], g[PARAMETERS], q, taken, saved;
    if (!PyArg_ParseTuple(args, "OOsi(iiiii)" ADDRESSES INPUTS LOCATED "KK" ADDRESSES, &capsule, &wanted, &level,
                          &threads, &c.groups, &c.steps, &c.batch, &c.agents, &c.seeds, EIGHT(p), READ_INPUTS(c, inputs),
                          &q, STRIDES(c.q), &taken, &saved, EIGHT(g)))
        return NULL;
    const train_kernels *kernels = train_level(level);
    c.network = PyCapsule_GetPointer(capsule, NETWORK);
    c.gradients = PyCapsule_GetPointer(wanted, NETWORK);
    if (!c.network || !c.gradients)
        return NULL;
    set_parameters(&c, p);
    set_inputs(&c, &inputs);
    c.q.data = address(q), c.taken = address(taken), c.saved = address(saved);
    float *grad[PARAMETERS];
    for (int i = 0; i < PARAMETERS; i++)
        grad[i] = address(g[i]);
    Py_BEGIN_ALLOW_THREADS
    done = make_partial(&c)
           && train_run(kernels->backward, &c, c.groups * train_tiles(&c), train_work_size(&c), threads);
    if (done)
        collect(&c, grad);
    free(c.partial);
    Py_END_ALLOW_THREADS
    return done ? Py_NewRef(Py_None) : PyErr_NoMemory();
}

static PyMethodDef methods[] = {
    {"levels", levels, METH_NOARGS, "Instruction sets that run here, best first."},
    {"build", build, METH_VARARGS, "A network's structure from the addresses of its four masks, or zeros: full."},
    {"saved_size", saved_size, METH_VARARGS, "Floats that a forward pass saves for each tile of each group."},
    {"connections", connections, METH_O, "Weights that the structure's panels hold, padding included."},
    {"forward", forward, METH_VARARGS, "Whole sequences."},
    {"backward", backward, METH_VARARGS, "Their gradients."},
    {"mixer_build", mixer_structure, METH_VARARGS, "A mixer's structure from the addresses of its masks, 0: full."},
    {"mixer_forward", mixer_values, METH_VARARGS, "Mixed values."},
    {"mixer_backward", mixer_gradients, METH_VARARGS, "Their gradients, of given ones of the mixed values or of the loss."},
    {"episodes", episode_rows, METH_VARARGS, "Where the transitions of episodes are; returns their number."},
    {"soft_mellowmax", mellow_values, METH_VARARGS, "Soft Mellowmax of rows."},
    {"td_lambda", lambda_returns, METH_VARARGS, "TD(lambda) returns."},
    {"step", optimizer_step, METH_VARARGS, "One optimiser step; returns the gradients' norm."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_train", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__train(void) { return PyModule_Create(&module); }
