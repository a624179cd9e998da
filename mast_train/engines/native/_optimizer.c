/* The optimiser's calls of the extension module. Letter: * values of a parameter. */
#include "calls.h"
#include "levels.h"

#include <math.h>
#include <stdlib.h>

static const char POSITIONS[] = "mast_train.engines.native.positions";

/* Those of `size` values that take part, ascending. */
typedef struct {
    int64_t size;
    int32_t count;
    int32_t index[];
} positions;

static void release(PyObject *capsule) { free(PyCapsule_GetPointer(capsule, POSITIONS)); }

FUNCTION(call_positions)
{
    (void)self;
    static argument MASK[] = {{"mask", BOOLS, "*", 0, 0}, {0}};
    reading r;
    const uint8_t *mask = NULL;
    positions *found = NULL;
    const int read = read_call(&r, "positions", MASK, given, count, names, &mask);
    if (read) {
        const int32_t size = size_of(&r, '*');
        int32_t used = 0;
        for (int32_t i = 0; i < size; i++)
            used += mask[i] != 0;
        found = malloc(sizeof *found + (size_t)used * sizeof(int32_t));
        if (found) {
            found->size = size, found->count = 0;
            for (int32_t i = 0; i < size && found->count < used; i++)
                if (mask[i])
                    found->index[found->count++] = i;
        }
    }
    end_reading(&r);
    return !read ? NULL : found ? PyCapsule_New(found, POSITIONS, release) : PyErr_NoMemory();
}

/* ---- step ---- */

typedef struct {
    step_parameter parameter;
    const positions *positions;
} one_parameter;

static int bind_positions(reading *r, const argument *a, const void *structure)
{
    return bind_size(r, a, '*', ((const positions *)structure)->size);
}

#define OF_ONE(member) offsetof(one_parameter, member)
static argument PARAMETER[] = {
    {"parameter", FLOATS, "*", 0, OF_ONE(parameter.weight)},
    {"gradient", FLOATS, "*", 0, OF_ONE(parameter.grad)},
    {"first", FLOATS, "*", OPTIONAL, OF_ONE(parameter.first)},
    {"second", FLOATS, "*", 0, OF_ONE(parameter.second)},
    {"step", FLOATS, "", 0, OF_ONE(parameter.step)},
    {"positions", STRUCTURE, POSITIONS, OPTIONAL, OF_ONE(positions), NULL, bind_positions},
    {0},
};

typedef struct {
    const train_level *level;
    step_rule rule;
    double max_norm;
    PyObject *parameters;
    float *norm;
} step_arguments;

#define HERE(member) offsetof(step_arguments, member)
static argument STEP[] = {
    {"level", LEVEL_OF, NULL, 0, HERE(level)},
    {"lr", DOUBLE, NULL, 0, HERE(rule.lr)},
    {"beta1", DOUBLE, NULL, 0, HERE(rule.beta1)},
    {"beta2", DOUBLE, NULL, 0, HERE(rule.beta2)},
    {"eps", DOUBLE, NULL, 0, HERE(rule.eps)},
    {"max_norm", DOUBLE, NULL, 0, HERE(max_norm)},
    {"parameters", LISTED, NULL, 0, HERE(parameters)},
    {"norm", FLOATS, "", 0, HERE(norm)},
    {0},
};

static int read_parameter(reading *r, PyObject *from, step_parameter *p)
{
    one_parameter one = {0};
    r->size.of[26] = -1; /* the size of the one before */
    if (!from || !read_named(r, "parameter", PARAMETER, from, &one))
        return 0;
    *p = one.parameter;
    p->index = one.positions ? one.positions->index : NULL;
    p->count = one.positions ? one.positions->count : size_of(r, '*');
    return 1;
}

static double take_step(const train_level *level, const step_parameter *parameter, Py_ssize_t count, step_rule *rule,
                        double max_norm)
{
    double norm = 0.0;
    for (Py_ssize_t i = 0; i < count; i++)
        norm += level->square_norm(&parameter[i]);
    norm = sqrt(norm);
    rule->scale = norm + 1e-6 > max_norm ? (float)(max_norm / (norm + 1e-6)) : 1.0f;
    for (Py_ssize_t i = 0; i < count; i++)
        (parameter[i].first ? level->adam : level->rmsprop)(&parameter[i], rule);
    return norm;
}

FUNCTION(call_step)
{
    (void)self;
    reading r;
    step_arguments a;
    step_parameter *parameter = NULL;
    Py_ssize_t number = 0;
    int read = read_call(&r, "step", STEP, given, count, names, &a);
    if (read) {
        number = PySequence_Size(a.parameters);
        parameter = malloc(((size_t)number + 1) * sizeof *parameter);
        read = parameter || PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; read && i < number; i++) {
        PyObject *from = PySequence_GetItem(a.parameters, i);
        read = read_parameter(&r, from, &parameter[i]);
        Py_XDECREF(from);
    }
    if (read) {
        Py_BEGIN_ALLOW_THREADS
        *a.norm = (float)take_step(a.level, parameter, number, &a.rule, a.max_norm);
        Py_END_ALLOW_THREADS
    }
    free(parameter);
    end_reading(&r);
    return read ? Py_NewRef(Py_None) : NULL;
}
