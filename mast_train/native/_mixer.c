/* The mixer's part of the extension module. */
#include "calls.h"
#include "mixer.h"

#include <stdlib.h>

static const char MIXER[] = "mast_train.native.mixer";

#define SEVEN "(KKKKKKK)"
#define ALL(a) a, a + 1, a + 2, a + 3, a + 4, a + 5, a + 6

static void release(PyObject *capsule) { mixer_free(PyCapsule_GetPointer(capsule, MIXER)); }

/* mixer_build(agents, states, embed, hidden, masks) */
PyObject *mixer_structure(PyObject *self, PyObject *args)
{
    (void)self;
    int agents, states, embed, hidden;
    unsigned long long mask[MIXER_LAYERS];
    if (!PyArg_ParseTuple(args, "iiii" SEVEN, &agents, &states, &embed, &hidden, ALL(mask)))
        return NULL;
    const uint8_t *at[MIXER_LAYERS];
    for (int l = 0; l < MIXER_LAYERS; l++)
        at[l] = address(mask[l]);
    mixer_network *network;
    Py_BEGIN_ALLOW_THREADS
    network = mixer_build(agents, states, embed, hidden, at);
    Py_END_ALLOW_THREADS
    return network ? PyCapsule_New(network, MIXER, release) : PyErr_NoMemory();
}

static void set_parameters(mixer_call *c, const unsigned long long *weight, const unsigned long long *bias)
{
    for (int l = 0; l < MIXER_LAYERS; l++) {
        c->weight[l] = address(weight[l]);
        c->bias[l] = address(bias[l]);
    }
}

/* mixer_forward(mixer, level, threads, (repeats, rows), weights, biases, state, rows of it, q, q_tot) */
PyObject *mixer_values(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *capsule;
    const char *level;
    int threads, done;
    mixer_call c = {0};
    unsigned long long weight[MIXER_LAYERS], bias[MIXER_LAYERS], state, row, q, q_tot;
    if (!PyArg_ParseTuple(args, "Osi(ii)" SEVEN SEVEN "KKKK", &capsule, &level, &threads, &c.repeats, &c.rows,
                          ALL(weight), ALL(bias), &state, &row, &q, &q_tot))
        return NULL;
    c.network = PyCapsule_GetPointer(capsule, MIXER);
    if (!c.network)
        return NULL;
    set_parameters(&c, weight, bias);
    c.state = address(state), c.row = address(row), c.q = address(q), c.q_tot = address(q_tot);
    Py_BEGIN_ALLOW_THREADS
    done = train_run(train_level(level)->mixer_forward, &c, mixer_tasks(&c), mixer_work_size(&c), threads);
    Py_END_ALLOW_THREADS
    return done ? Py_NewRef(Py_None) : PyErr_NoMemory();
}

/* mixer_backward(mixer, gradients' mixer, level, threads, (repeats, rows), weights, biases, state, rows of it, q, gradient of
 * q_tot, of q, target, weight, low, q_tot, means, gradients of weights, of biases); addresses from target to means may be 0 */
PyObject *mixer_gradients(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *capsule, *wanted;
    const char *level;
    int threads, done = 0;
    mixer_call c = {0};
    unsigned long long weight[MIXER_LAYERS], bias[MIXER_LAYERS], to_weight[MIXER_LAYERS], to_bias[MIXER_LAYERS];
    unsigned long long state, row, q, grad, grad_q, target, row_weight, q_tot, means;
    if (!PyArg_ParseTuple(args, "OOsi(ii)" SEVEN SEVEN "KKKKKKKfKK" SEVEN SEVEN, &capsule, &wanted, &level, &threads,
                          &c.repeats, &c.rows, ALL(weight), ALL(bias), &state, &row, &q, &grad, &grad_q, &target,
                          &row_weight, &c.low, &q_tot, &means, ALL(to_weight),
                          ALL(to_bias)))
        return NULL;
    c.network = PyCapsule_GetPointer(capsule, MIXER);
    c.gradients = PyCapsule_GetPointer(wanted, MIXER);
    if (!c.network || !c.gradients)
        return NULL;
    set_parameters(&c, weight, bias);
    c.state = address(state), c.row = address(row), c.q = address(q), c.grad = address(grad), c.grad_q = address(grad_q);
    c.target = address(target), c.row_weight = address(row_weight), c.q_tot = address(q_tot);
    float *weights[MIXER_LAYERS], *biases[MIXER_LAYERS];
    for (int l = 0; l < MIXER_LAYERS; l++)
        weights[l] = address(to_weight[l]), biases[l] = address(to_bias[l]);
    Py_BEGIN_ALLOW_THREADS
    c.partial = malloc(mixer_gradient_size(c.gradients) * (size_t)mixer_tasks(&c) * sizeof(float));
    done = c.partial
           && train_run(train_level(level)->mixer_backward, &c, mixer_tasks(&c), mixer_work_size(&c), threads);
    if (done)
        mixer_collect(&c, weights, biases);
    if (done && c.target)
        mixer_means(&c, address(means));
    free(c.partial);
    Py_END_ALLOW_THREADS
    return done ? Py_NewRef(Py_None) : PyErr_NoMemory();
}
