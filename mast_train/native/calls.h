/* The parts of the extension module: addresses and sizes in. Callers check shapes; see the Python beside. */
#ifndef MAST_TRAIN_CALLS_H
#define MAST_TRAIN_CALLS_H
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "train.h"

/* The kernels of an instruction set that `levels` named. */
const train_kernels *train_level(const char *name);

static inline void *address(unsigned long long value) { return (void *)(uintptr_t)value; }

PyObject *mixer_structure(PyObject *self, PyObject *args);
PyObject *mixer_values(PyObject *self, PyObject *args);
PyObject *mixer_gradients(PyObject *self, PyObject *args);
PyObject *optimizer_step(PyObject *self, PyObject *args);
PyObject *mellow_values(PyObject *self, PyObject *args);
PyObject *lambda_returns(PyObject *self, PyObject *args);
PyObject *episode_rows(PyObject *self, PyObject *args);
#endif
