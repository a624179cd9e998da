/* Tensors as arguments: their memory by DLPack, and their dtype, device, shape and layout against the call's table. */
#include "arguments.h"
#include "dlpack.h"

#include <string.h>

/* ---- sizes ---- */

static int place_of(char letter) { return letter == '*' ? 26 : letter - 'A'; }

int32_t size_of(const reading *r, char letter) { return (int32_t)r->size.of[place_of(letter)]; }

/* Batches without a transition are batches; other sizes are at least 1. */
static int least_of(char letter) { return letter == 'R' || letter == 'L' || letter == '*' ? 0 : 1; }

static int fits(reading *r, char letter, int64_t size)
{
    int64_t *known = &r->size.of[place_of(letter)];
    if (*known < 0 && size >= least_of(letter) && size <= MOST_SIZE)
        *known = size;
    return *known == size;
}

int bind_size(reading *r, const argument *a, char letter, int64_t size)
{
    return fits(r, letter, size)
           || complain(r, a, PyExc_ValueError, PyUnicode_FromFormat("made for %c = %lld", letter, (long long)size),
                       PyUnicode_FromFormat("%d", size_of(r, letter)));
}

/* The value of the word of a shape up to `end`, -1 where a letter of it is not known yet; alone: the letter that it
 * is. */
static int64_t word_value(const reading *r, const char *word, const char *end, char *alone)
{
    int64_t value = 1, number = 0;
    int digits = 0, letters = 0;
    *alone = end - word == 1 && (*word < '0' || *word > '9') ? *word : 0;
    for (; word < end && *word != '-'; word++) {
        if (*word >= '0' && *word <= '9') {
            number = 10 * number + (*word - '0'), digits = 1;
            continue;
        }
        const int64_t known = r->size.of[place_of(*word)];
        if (known < 0)
            return -1;
        value *= known, letters = 1;
    }
    value = digits ? (letters ? value * number : number) : value;
    return word < end ? value - (word[1] - '0') : value;
}

static const char *end_of(const char *word)
{
    while (*word && *word != ' ')
        word++;
    return word;
}

static const char *word_after(const char *word)
{
    const char *end = end_of(word);
    return *end ? end + 1 : end;
}

/* Whether the dimensions before the last `after` multiply to the size "*"; -1: no, else how many they are. */
static int32_t take_any(reading *r, const dlpack_tensor *t, int32_t after)
{
    int64_t product = 1;
    for (int32_t i = 0; i < t->ndim - after; i++) {
        if (t->shape[i] > MOST_SIZE || (t->shape[i] > 0 && product > MOST_SIZE / t->shape[i]))
            return -1;
        product *= t->shape[i];
    }
    return t->ndim >= after && fits(r, '*', product) ? t->ndim - after : -1;
}

/* Whether the tensor has the shape; fixes the sizes that are open. */
static int has_shape(reading *r, const char *shape, const dlpack_tensor *t)
{
    const int any = *shape == '*';
    if (any)
        shape = word_after(shape);
    int32_t words = 0;
    for (const char *word = shape; *word; word = word_after(word))
        words++;
    int32_t at = any ? take_any(r, t, words) : 0;
    if (at < 0 || t->ndim - at != words)
        return 0;
    for (; *shape; at++, shape = word_after(shape)) {
        char alone;
        const int64_t expected = word_value(r, shape, end_of(shape), &alone);
        if (alone ? !fits(r, alone, t->shape[at]) : t->shape[at] != expected)
            return 0;
    }
    return 1;
}

/* ---- tensors ---- */

static const struct {
    const char *name;
    uint8_t code, bits;
} DTYPES[] = {[FLOATS] = {"float32", DLPACK_FLOAT, 32},
              [BOOLS] = {"bool", DLPACK_BOOL, 8},
              [INT32S] = {"int32", DLPACK_INT, 32},
              [INT64S] = {"int64", DLPACK_INT, 64}};

static PyObject *joined(PyObject *text, PyObject *more)
{
    PyObject *both = text && more ? PyUnicode_Concat(text, more) : NULL;
    Py_XDECREF(text);
    Py_XDECREF(more);
    return both;
}

/* "float32 [T, B, 3, 8]", the sizes that are known as numbers */
static PyObject *expected_tensor(const reading *r, const argument *a)
{
    PyObject *text = PyUnicode_FromFormat("%s [", DTYPES[a->kind].name);
    for (const char *word = a->shape; *word;) {
        const char *end = end_of(word);
        char alone;
        const int64_t value = word_value(r, word, end, &alone);
        text = joined(text, value < 0 ? PyUnicode_FromStringAndSize(word, end - word)
                                      : PyUnicode_FromFormat("%lld", (long long)value));
        text = joined(text, PyUnicode_FromString(*end ? ", " : ""));
        word = *end ? end + 1 : end;
    }
    return joined(text, PyUnicode_FromString("]"));
}

static PyObject *given_numbers(const char *before, const int64_t *number, int32_t count)
{
    PyObject *text = PyUnicode_FromFormat("%s[", before);
    for (int32_t i = 0; i < count; i++)
        text = joined(text, PyUnicode_FromFormat("%s%lld", i ? ", " : "", (long long)number[i]));
    return joined(text, PyUnicode_FromString("]"));
}

static PyObject *given_tensor(const dlpack_tensor *t)
{
    static const char *const CODES[] = {"int", "uint", "float", "other", "bfloat", "complex", "bool"};
    const char *code = t->dtype.code < sizeof CODES / sizeof *CODES ? CODES[t->dtype.code] : "other";
    PyObject *text = t->dtype.code == DLPACK_BOOL ? PyUnicode_FromString(code)
                                                  : PyUnicode_FromFormat("%s%d", code, (int)t->dtype.bits);
    return joined(text, given_numbers(" ", t->shape, t->ndim));
}

/* The exchange table of an object's type, or NULL. Types that have one are few, and held once they are met. */
static const dlpack_exchange *exchange_of(PyObject *object)
{
    static struct {
        PyTypeObject *type;
        const dlpack_exchange *exchange;
    } met[4];
    static int count;
    PyTypeObject *type = Py_TYPE(object);
    for (int i = 0; i < count; i++)
        if (met[i].type == type)
            return met[i].exchange;
    PyObject *capsule = PyObject_GetAttrString((PyObject *)type, "__dlpack_c_exchange_api__");
    const dlpack_exchange *exchange = capsule ? PyCapsule_GetPointer(capsule, "dlpack_exchange_api") : NULL;
    PyErr_Clear();
    Py_XDECREF(capsule);
    if (!exchange || exchange->version.major != 1 || !exchange->borrow)
        return NULL;
    if (count < (int)(sizeof met / sizeof *met)) {
        Py_INCREF((PyObject *)type);
        met[count].type = type, met[count++].exchange = exchange;
    }
    return exchange;
}

static void delete_managed(PyObject *capsule)
{
    dlpack_managed *managed = PyCapsule_GetPointer(capsule, "mast dltensor");
    if (managed && managed->deleter)
        managed->deleter(managed);
}

/* What any library's object says of itself; it is kept until the call ends. */
static int export_tensor(reading *r, PyObject *object, dlpack_tensor *view)
{
    PyObject *plain = PyObject_CallMethod(object, "detach", NULL); /* torch exports no tensor that wants gradients */
    if (!plain) {
        PyErr_Clear();
        plain = Py_NewRef(object);
    }
    PyObject *capsule = PyObject_CallMethod(plain, "__dlpack__", NULL);
    Py_DECREF(plain);
    dlpack_managed *managed = capsule ? PyCapsule_GetPointer(capsule, "dltensor") : NULL;
    if (!managed) {
        Py_XDECREF(capsule);
        return 0;
    }
    *view = managed->tensor;
    /* Ours from here on: the name says so, and the deleter runs with the capsule. */
    PyCapsule_SetName(capsule, "used_dltensor");
    Py_DECREF(capsule);
    PyObject *owner = PyCapsule_New(managed, "mast dltensor", delete_managed);
    if (!owner && managed->deleter)
        managed->deleter(managed);
    if (owner && !r->kept)
        r->kept = PyList_New(0);
    const int kept = owner && r->kept && PyList_Append(r->kept, owner) == 0;
    Py_XDECREF(owner);
    return kept;
}

static int empty(const dlpack_tensor *t)
{
    for (int32_t i = 0; i < t->ndim; i++)
        if (t->shape[i] == 0)
            return 1;
    return 0;
}

/* Whether the dimensions from `first` on lie next to each other. */
static int adjacent(const dlpack_tensor *t, int32_t first)
{
    int64_t step = 1;
    for (int32_t i = t->ndim - 1; t->strides && i >= first; step *= t->shape[i], i--)
        if (t->shape[i] != 1 && t->strides[i] != step)
            return empty(t);
    return 1;
}

static strided strided_of(const dlpack_tensor *t, void *data)
{
    int64_t step[3] = {0}, next = 1;
    for (int32_t i = t->ndim - 1; i >= 0; next *= t->shape[i], i--)
        if (i < 3)
            step[i] = t->strides ? t->strides[i] : next;
    return (strided){data, (ptrdiff_t)step[0], (ptrdiff_t)step[1], (ptrdiff_t)step[2]};
}

static int refuse_tensor(const reading *r, const argument *a, const char *given)
{
    return complain(r, a, PyExc_ValueError, PyUnicode_FromString(given), expected_tensor(r, a));
}

static int right_type(reading *r, const argument *a, const dlpack_tensor *t)
{
    const sizes before = r->size;
    if (t->dtype.code == DTYPES[a->kind].code && t->dtype.bits == DTYPES[a->kind].bits && t->dtype.lanes == 1
        && has_shape(r, a->shape, t))
        return 1;
    r->size = before;
    return complain(r, a, PyExc_ValueError, given_tensor(t), expected_tensor(r, a));
}

static int right_layout(const reading *r, const argument *a, const dlpack_tensor *t)
{
    const int strides = a->flags & STRIDED;
    return adjacent(t, strides ? 3 : 0)
           || complain(r, a, PyExc_ValueError, given_numbers("stored in steps of ", t->strides, t->ndim),
                       PyUnicode_FromString(strides ? "its last dimension adjacent" : "contiguous memory"));
}

int read_tensor(reading *r, const argument *a, PyObject *object, void *to)
{
    dlpack_tensor t;
    const dlpack_exchange *exchange = exchange_of(object);
    if (!exchange && !PyObject_HasAttrString(object, "__dlpack__"))
        return complain(r, a, PyExc_TypeError, kind_of(object),
                        joined(PyUnicode_FromString("a tensor, "), expected_tensor(r, a)));
    if (exchange ? exchange->borrow(object, &t) : !export_tensor(r, object, &t)) {
        PyErr_Clear();
        return refuse_tensor(r, a, "no tensor in plain memory");
    }
    if (t.device.type != DLPACK_CPU)
        return refuse_tensor(r, a, "not on the CPU");
    if (!right_type(r, a, &t) || !right_layout(r, a, &t))
        return 0;
    char *data = t.data ? (char *)t.data + t.byte_offset : NULL;
    if (!data && !empty(&t))
        return refuse_tensor(r, a, "without its memory");
    if ((uintptr_t)data % (t.dtype.bits / 8))
        return refuse_tensor(r, a, "at an address that is not aligned");
    if (a->flags & STRIDED)
        *(strided *)to = strided_of(&t, data);
    else
        memcpy(to, &data, sizeof data);
    return 1;
}
