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

/* td_lambda((B, T), reward, next value, terminated, filled, gamma, lambda, targets): [B,T], next values and targets of
 * the filled ones alone, in their order */
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
    const uint8_t *terminated = address(at[2]), *filled = address(at[3]);
    float *target = address(at[4]);
    for (int b = 0, row = 0; b < episodes; b++) {
        const int first = b * steps;
        int count = 0;
        while (count < steps && filled[first + count])
            count++;
        float keep = 0.0f, following = 0.0f; /* nothing follows the last transition */
        for (int t = count - 1; t >= 0; t--, keep = lambda) {
            const float mixed = (1.0f - keep) * value[row + t] + keep * following;
            target[row + t] = following = reward[first + t] + gamma * (terminated[first + t] ? 0.0f : mixed);
        }
        row += count;
    }
    return Py_NewRef(Py_None);
}
