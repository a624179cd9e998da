/* What a call of the extension is given: arguments by name, into one structure. A table says of each argument its kind,
 * its shape and where it goes; what a call is given is checked against its table here and nowhere else. */
#ifndef MAST_TRAIN_ARGUMENTS_H
#define MAST_TRAIN_ARGUMENTS_H
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "strided.h"

#include <stdint.h>

/* C types of what each is read into: */
typedef enum {
    COUNT,     /* int32_t, 1 or more; the size whose letter `shape` is, if any */
    FLAG,      /* int32_t, 0 or 1 */
    SINGLE,    /* float */
    DOUBLE,    /* double */
    LEVEL_OF,  /* const train_level *, one that runs here */
    STRUCTURE, /* pointer of the capsule named `shape`; `bind` checks it */
    NAMED,     /* what `inner` says, of a dict, from `at` on */
    LISTED,    /* PyObject *, a tuple or list; borrowed */
    FLOATS,    /* pointers to tensors' data, adjacent; STRIDED: a strided */
    BOOLS,
    INT32S,
    INT64S,
} argument_kind;

enum { OPTIONAL = 1, STRIDED = 2 };

/* A tensor's shape is words of letters, each a size of the call: "T B N F", "G 3H H", "T-1 B N". The first tensor with
 * a letter alone in a word fixes its size. "*" is any number of dimensions, and their product a size. */
typedef struct {
    int64_t of[27];
} sizes;

typedef struct {
    const char *call, *within; /* for messages; within: the dict that is read, or NULL */
    sizes size;
    PyObject *kept; /* what must live as long as the call */
} reading;

typedef struct argument {
    const char *name;
    argument_kind kind;
    const char *shape;
    int flags;
    size_t at;
    struct argument *inner;
    int (*bind)(reading *r, const struct argument *argument, const void *structure); /* 0: refused */
    PyObject *met; /* the name as a caller wrote it, which the next call mostly has too; NULL in a table */
} argument;

enum { MOST_ARGUMENTS = 24, MOST_SIZE = 1 << 30 };

/* Arguments of a function that takes names alone, into `to`; table ends with {0}. Returns 0 with an exception set:
 * TypeError for what is missing, unknown or of the wrong type, ValueError for the wrong dtype, device, shape, layout or
 * size. */
int read_call(reading *r, const char *call, argument *table, PyObject *const *given, Py_ssize_t count,
              PyObject *names, void *to);

/* The same of a dict, within a call that is read already. */
int read_named(reading *r, const char *within, argument *table, PyObject *dict, void *to);

void end_reading(reading *r);

/* A size of the call by its letter; -1: nothing has fixed it. */
int32_t size_of(const reading *r, char letter);

/* Fixes a size; refuses another than it has. */
int bind_size(reading *r, const argument *argument, char letter, int64_t size);

/* For the readers: sets "call: name is GIVEN, expected EXPECTED", taking over both texts; returns 0. */
int complain(const reading *r, const argument *a, PyObject *type, PyObject *given, PyObject *expected);
PyObject *kind_of(PyObject *object);
int read_tensor(reading *r, const argument *a, PyObject *object, void *to);

/* Sets ValueError, "call: " and the text; returns 0. */
int refuse(const reading *r, const char *format, ...);

/* A product of sizes that C counts in int32_t; refuses more than MOST_SIZE. */
int bounded(const reading *r, const char *what, int64_t a, int64_t b);

#define FUNCTION(name) PyObject *name(PyObject *self, PyObject *const *given, Py_ssize_t count, PyObject *names)
#endif
