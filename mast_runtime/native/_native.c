/* The extension: networks packed for one instruction set, and the agents and teams that run them.
 *
 * Whatever is passed in is checked before it is used: a wrong type, size or index is a TypeError or a ValueError. What the
 * caller of `act` gives that is not a plain C-contiguous array goes to the converters of mast_runtime.given, which also
 * word the errors.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mast_network.h"

#define ALIGNMENT 64u
/* A GIL given up is got back up to milliseconds later where other threads compute: only for work as long as that. */
#define WEIGHTS_WORTH_THE_GIL (1u << 22)

static PyObject *convert_obs, *convert_avail, *convert_which, *make_array, *overflow_error, *check_executed;
static PyTypeObject *network_type, *agent_type, *team_type;

#include "_buffers.h"
#include "_packed.h"
#include "_windows.h"
#include "_network.h"
#include "_searching.h"
#include "_bound.h"
#include "_agent.h"
#include "_team.h"

/* configure(convert_obs, convert_avail, convert_which, make_array, overflow_error, check_executed): Python functions that
 * are called here. */
static PyObject *configure(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *f[6], **const to[6] = {&convert_obs, &convert_avail,   &convert_which,
                                     &make_array,  &overflow_error, &check_executed};
    if (!PyArg_ParseTuple(args, "OOOOOO", &f[0], &f[1], &f[2], &f[3], &f[4], &f[5]))
        return NULL;
    for (int i = 0; i < 6; i++) {
        PyObject *old = *to[i];
        Py_INCREF(f[i]);
        *to[i] = f[i];
        Py_XDECREF(old);
    }
    Py_RETURN_NONE;
}

static PyMethodDef module_methods[] = {{"configure", configure, METH_VARARGS, "Set the functions this module calls."},
                                       {"pack_windows", pack_windows, METH_VARARGS,
                                        "pack_windows(lengths, columns, values) -> counts, columns, picks, values"},
                                       {"levels", levels, METH_NOARGS,
                                        "levels() -> ((name, dense_from, halves_from), ...): the instruction sets this "
                                        "machine runs,\nbest first; see mast_kernels."},
                                       {0}};
static struct PyModuleDef module_def = {
    .m_base = PyModuleDef_HEAD_INIT, .m_name = "_native", .m_size = -1, .m_methods = module_methods};

static PyTypeObject *add_type(PyObject *module, const char *name, PyType_Spec *spec)
{
    PyObject *type = PyType_FromSpec(spec);
    if (!type || PyModule_AddObjectRef(module, name, type) < 0) {
        Py_XDECREF(type);
        return NULL;
    }
    return (PyTypeObject *)type;
}

PyMODINIT_FUNC PyInit__native(void)
{
    PyObject *module = PyModule_Create(&module_def);
    if (module
        && (!(network_type = add_type(module, "Network", &network_spec))
            || !(agent_type = add_type(module, "Agent", &agent_spec))
            || !(team_type = add_type(module, "Team", &team_spec))
            || PyModule_AddIntConstant(module, "PANEL", MAST_PANEL) < 0
            || PyModule_AddIntConstant(module, "LANES", MAST_LANES) < 0
            || PyModule_AddIntConstant(module, "WINDOW", MAST_WINDOW) < 0))
        Py_CLEAR(module);
    return module;
}
