/* The optimiser's part of the extension module. */
#include "calls.h"

#include <math.h>
#include <stdlib.h>

/* One parameter from (count, index, weight, gradient, first moment, second moment, step). */
static int read_parameter(PyObject *from, step_parameter *p)
{
    unsigned long long index, weight, grad, first, second, step;
    if (!PyArg_ParseTuple(from, "iKKKKKK", &p->count, &index, &weight, &grad, &first, &second, &step))
        return 0;
    p->index = address(index), p->weight = address(weight), p->grad = address(grad);
    p->first = address(first), p->second = address(second), p->step = address(step);
    return 1;
}

static double take_step(const train_kernels *kernels, const step_parameter *parameter, Py_ssize_t count,
                        step_rule *rule, double max_norm)
{
    double norm = 0.0;
    for (Py_ssize_t i = 0; i < count; i++)
        norm += kernels->square_norm(&parameter[i]);
    norm = sqrt(norm);
    rule->scale = norm + 1e-6 > max_norm ? (float)(max_norm / (norm + 1e-6)) : 1.0f;
    for (Py_ssize_t i = 0; i < count; i++)
        (parameter[i].first ? kernels->adam : kernels->rmsprop)(&parameter[i], rule);
    return norm;
}

/* step(level, (lr, beta1, beta2, eps), max_norm, [parameter, ...]) -> norm before clipping */
PyObject *optimizer_step(PyObject *self, PyObject *args)
{
    (void)self;
    const char *level;
    step_rule rule;
    double max_norm, norm;
    PyObject *list;
    if (!PyArg_ParseTuple(args, "s(dddd)dO", &level, &rule.lr, &rule.beta1, &rule.beta2, &rule.eps, &max_norm, &list))
        return NULL;
    const Py_ssize_t count = PyList_Size(list);
    step_parameter *parameter = count < 0 ? NULL : malloc(((size_t)count + 1) * sizeof *parameter);
    if (!parameter)
        return count < 0 ? NULL : PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < count; i++)
        if (!read_parameter(PyList_GetItem(list, i), &parameter[i])) {
            free(parameter);
            return NULL;
        }
    Py_BEGIN_ALLOW_THREADS
    norm = take_step(train_level(level), parameter, count, &rule, max_norm);
    Py_END_ALLOW_THREADS
    free(parameter);
    return PyFloat_FromDouble(norm);
}
