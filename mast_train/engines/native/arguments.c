/* Arguments by name: finding them, the kinds that are no tensors, and what is said when one is wrong. */
#include "arguments.h"

#include "levels.h"

#include <string.h>

/* ---- messages ---- */

int refuse(const reading *r, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    PyObject *text = PyUnicode_FromFormatV(format, arguments);
    va_end(arguments);
    if (text)
        PyErr_Format(PyExc_ValueError, "%s: %U", r->call, text);
    Py_XDECREF(text);
    return 0;
}

int bounded(const reading *r, const char *what, int64_t a, int64_t b)
{
    return a <= MOST_SIZE / (b > 0 ? b : 1)
           || refuse(r, "%s are %lld, expected at most %d", what, (long long)(a * b), MOST_SIZE);
}

/* "x" or "parameters['fc1_weight']" */
static PyObject *label(const reading *r, const argument *a)
{
    return r->within ? PyUnicode_FromFormat("%s['%s']", r->within, a->name) : PyUnicode_FromString(a->name);
}

int complain(const reading *r, const argument *a, PyObject *type, PyObject *given, PyObject *expected)
{
    PyObject *name = label(r, a);
    if (name && given && expected)
        PyErr_Format(type, "%s: %U is %U, expected %U", r->call, name, given, expected);
    Py_XDECREF(name);
    Py_XDECREF(given);
    Py_XDECREF(expected);
    return 0;
}

PyObject *kind_of(PyObject *object)
{
    if (object == Py_None)
        return PyUnicode_FromString("None");
    PyObject *name = PyObject_GetAttrString((PyObject *)Py_TYPE(object), "__name__");
    PyObject *text = name ? PyUnicode_FromFormat("of type %S", name) : NULL;
    Py_XDECREF(name);
    return text;
}

static int wrong_type(const reading *r, const argument *a, PyObject *given, const char *expected)
{
    PyErr_Clear();
    return complain(r, a, PyExc_TypeError, kind_of(given), PyUnicode_FromString(expected));
}

/* ---- other kinds ---- */

static int read_count(reading *r, const argument *a, PyObject *object, void *to)
{
    const long value = PyLong_Check(object) ? PyLong_AsLong(object) : -1;
    if (!PyLong_Check(object))
        return wrong_type(r, a, object, "an integer");
    PyErr_Clear();
    if (value < 1 || value > MOST_SIZE)
        return complain(r, a, PyExc_ValueError, PyObject_Str(object), PyUnicode_FromFormat("1 to %d", MOST_SIZE));
    *(int32_t *)to = (int32_t)value;
    return !a->shape || bind_size(r, a, *a->shape, value);
}

static int read_number(const reading *r, const argument *a, PyObject *object, void *to)
{
    const double value = PyFloat_AsDouble(object);
    if (value == -1.0 && PyErr_Occurred())
        return wrong_type(r, a, object, "a number");
    if (a->kind == SINGLE)
        *(float *)to = (float)value;
    else
        *(double *)to = value;
    return 1;
}

static int read_level(const reading *r, const argument *a, PyObject *object, void *to)
{
    static const train_level *const ALL[] = {
#define LEVEL(name) &train_level_##name,
#include "levels.def"
#undef LEVEL
    };
    if (!PyUnicode_Check(object))
        return wrong_type(r, a, object, "the name of an instruction set");
    for (size_t i = 0; i < sizeof ALL / sizeof *ALL; i++)
        if (ALL[i]->runs && PyUnicode_CompareWithASCIIString(object, ALL[i]->name) == 0 && ALL[i]->runs()) {
            *(const train_level **)to = ALL[i];
            return 1;
        }
    return complain(r, a, PyExc_ValueError, PyObject_Repr(object),
                    PyUnicode_FromString("an instruction set that runs here"));
}

static int read_structure(reading *r, const argument *a, PyObject *object, void *to)
{
    const void *found = PyCapsule_IsValid(object, a->shape) ? PyCapsule_GetPointer(object, a->shape) : NULL;
    if (!found)
        return wrong_type(r, a, object, a->shape);
    *(const void **)to = found;
    return !a->bind || a->bind(r, a, found);
}

static int read_value(reading *r, const argument *a, PyObject *object, char *to)
{
    switch (a->kind) {
    case COUNT: return read_count(r, a, object, to);
    case FLAG:
        if (object != Py_True && object != Py_False)
            return wrong_type(r, a, object, "True or False");
        *(int32_t *)(void *)to = object == Py_True;
        return 1;
    case SINGLE:
    case DOUBLE: return read_number(r, a, object, to);
    case LEVEL_OF: return read_level(r, a, object, to);
    case STRUCTURE: return read_structure(r, a, object, to);
    case NAMED: return read_named(r, a->name, a->inner, object, to);
    case LISTED:
        if (!PyTuple_Check(object) && !PyList_Check(object))
            return wrong_type(r, a, object, "a tuple or list");
        memcpy(to, &object, sizeof object);
        return 1;
    default: return read_tensor(r, a, object, to);
    }
}

/* ---- names ---- */

/* Where the table has the name; a call's names mostly come in its order, as the strings that they were before. */
static int find(const reading *r, argument *table, PyObject *name, int next)
{
    for (int i = next; table[i].name; i++)
        if (table[i].met == name)
            return i;
    for (int i = 0; i < next; i++)
        if (table[i].met == name)
            return i;
    for (int i = 0; table[i].name && PyUnicode_Check(name); i++)
        if (PyUnicode_CompareWithASCIIString(name, table[i].name) == 0) {
            if (!table[i].met)
                table[i].met = Py_NewRef(name);
            return i;
        }
    if (r->within)
        PyErr_Format(PyExc_TypeError, "%s: %s has no %R", r->call, r->within, name);
    else
        PyErr_Format(PyExc_TypeError, "%s: has no argument %R", r->call, name);
    return -1;
}

static int read_all(reading *r, const argument *table, PyObject *const value[MOST_ARGUMENTS], char *to)
{
    for (int i = 0; table[i].name; i++) {
        if (!value[i] && !(table[i].flags & OPTIONAL)) {
            PyObject *name = label(r, &table[i]);
            if (name)
                PyErr_Format(PyExc_TypeError, "%s: %U is missing", r->call, name);
            Py_XDECREF(name);
            return 0;
        }
        if (!value[i] || (value[i] == Py_None && table[i].flags & OPTIONAL))
            continue;
        if (!read_value(r, &table[i], value[i], to + table[i].at))
            return 0;
    }
    return 1;
}

int read_call(reading *r, const char *call, argument *table, PyObject *const *given, Py_ssize_t count,
              PyObject *names, void *to)
{
    PyObject *value[MOST_ARGUMENTS] = {NULL};
    *r = (reading){call, NULL, {{0}}, NULL};
    memset(&r->size, -1, sizeof r->size);
    if (count) {
        PyErr_Format(PyExc_TypeError, "%s: takes arguments by name alone", call);
        return 0;
    }
    const Py_ssize_t named = names ? PyTuple_Size(names) : 0;
    for (Py_ssize_t i = 0, at = -1; i < named; i++) {
        at = find(r, table, PyTuple_GetItem(names, i), (int)at + 1);
        if (at < 0)
            return 0;
        value[at] = given[i];
    }
    return read_all(r, table, value, to);
}

int read_named(reading *r, const char *within, argument *table, PyObject *dict, void *to)
{
    PyObject *value[MOST_ARGUMENTS] = {NULL}, *name, *one;
    const argument itself = {.name = within};
    if (!PyDict_Check(dict))
        return wrong_type(r, &itself, dict, "a dict");
    r->within = within;
    int at = -1, read = 1;
    for (Py_ssize_t i = 0; read && PyDict_Next(dict, &i, &name, &one); value[at < 0 ? 0 : at] = one) {
        at = find(r, table, name, at + 1);
        read = at >= 0;
    }
    read = read && read_all(r, table, value, to);
    r->within = NULL;
    return read;
}

void end_reading(reading *r) { Py_CLEAR(r->kept); }
