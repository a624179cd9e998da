/* The targets' part of the extension module. */
#include "calls.h"
#include "targets.h"

/* soft_mellowmax(level, threads, (rows, actions), q, select, avail, alpha, omega, value) */
PyObject *mellow_values(PyObject *self, PyObject *args)
{
    (void)self;
    const char *level;
    int threads, done;
    mellow_call c = {0};
    unsigned long long q, select, avail, value;
    if (!PyArg_ParseTuple(args, "si(ii)KKKffK", &level, &threads, &c.rows, &c.actions, &q, &select, &avail, &c.alpha,
                          &c.omega, &value))
        return NULL;
    c.q = address(q), c.select = address(select), c.avail = address(avail), c.value = address(value);
    Py_BEGIN_ALLOW_THREADS
    done = train_run(train_level(level)->soft_mellowmax, &c, (c.rows + TRAIN_LANES - 1) / TRAIN_LANES,
                     5 * (size_t)c.actions * TRAIN_LANES, threads);
    Py_END_ALLOW_THREADS
    return done ? Py_NewRef(Py_None) : PyErr_NoMemory();
}

/* td_lambda((B, T), reward, next value, terminated, last, gamma, lambda, targets), all [B,T] */
PyObject *lambda_returns(PyObject *self, PyObject *args)
{
    (void)self;
    int episodes, steps;
    unsigned long long at[5];
    float gamma, lambda;
    if (!PyArg_ParseTuple(args, "(ii)KKKKffK", &episodes, &steps, &at[0], &at[1], &at[2], &at[3], &gamma, &lambda,
                          &at[4]))
        return NULL;
    const float *reward = address(at[0]), *value = address(at[1]);
    const uint8_t *terminated = address(at[2]), *last = address(at[3]);
    float *target = address(at[4]);
    for (int b = 0; b < episodes; b++) {
        float following = 0.0f;
        for (int i = (b + 1) * steps - 1; i >= b * steps; i--) {
            const float keep = last[i] ? 0.0f : lambda;
            const float next = terminated[i] ? 0.0f : (1.0f - keep) * value[i] + keep * following;
            target[i] = following = reward[i] + gamma * next;
        }
    }
    return Py_NewRef(Py_None);
}
