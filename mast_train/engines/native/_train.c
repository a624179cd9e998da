/* The extension module: its table of calls. */
#include "calls.h"
#include "levels.h"

static PyObject *levels(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    PyObject *names = PyList_New(0);
#define LEVEL(level)                                                                                                   \
    if (names && train_level_##level.runs && train_level_##level.runs()) {                                             \
        PyObject *name = PyUnicode_FromString(train_level_##level.name);                                               \
        if (!name || PyList_Append(names, name) < 0)                                                                   \
            Py_CLEAR(names);                                                                                           \
        Py_XDECREF(name);                                                                                              \
    }
#include "levels.def"
#undef LEVEL
    PyObject *all = names ? PyList_AsTuple(names) : NULL;
    Py_XDECREF(names);
    return all;
}

#define CALL(name, text) {#name, (PyCFunction)(void (*)(void))call_##name, METH_FASTCALL | METH_KEYWORDS, text}

static PyMethodDef methods[] = {
    {"levels", levels, METH_NOARGS, "Instruction sets that run here, best first."},
    CALL(agents_build, "A network's structure from its masks by name; one left out is full."),
    CALL(agents_saved, "Floats that a forward pass saves for the backward pass."),
    CALL(agents_forward, "Whole sequences through up to four networks."),
    CALL(agents_backward, "Their gradients."),
    CALL(mixer_build, "A mixer's structure from its masks by name; one left out is full."),
    CALL(mixer_forward, "Mixed values."),
    CALL(mixer_backward, "Gradients from those of the mixed values."),
    CALL(mixer_fit, "Gradients of the mixed values' loss, and means over rows."),
    CALL(episodes, "Where the transitions of episodes are; returns their number."),
    CALL(soft_mellowmax, "Soft Mellowmax of rows."),
    CALL(td_lambda, "TD(lambda) returns."),
    CALL(positions, "Where a mask is True, for `step`."),
    CALL(step, "One optimiser step, and the gradients' norm before."),
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_train", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__train(void) { return PyModule_Create(&module); }
