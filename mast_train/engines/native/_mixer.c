/* The mixer's calls of the extension module. Letters: N agents, S state, E embedding, H hidden, R rows, M states,
 * * repeats. */
#include "calls.h"
#include "levels.h"
#include "mixer.h"

#include <stdlib.h>

static const char MIXER[] = "mast_train.engines.native.mixer";

typedef struct {
    const train_level *level;
    int32_t threads;
    mixer_call call;
    float *means;
    mixer_parameters gradients;
} mixer_arguments;

#define HERE(member) offsetof(mixer_arguments, member)

static int bind_mixer(reading *r, const argument *a, const void *structure)
{
    const mixer_network *n = structure;
    return bind_size(r, a, 'N', n->agents) && bind_size(r, a, 'S', n->states) && bind_size(r, a, 'E', n->embed)
           && bind_size(r, a, 'H', n->hidden);
}

/* ---- structures ---- */

typedef struct {
    int32_t agents, states, embed, hidden;
    const uint8_t *mask[MIXER_LAYERS];
} build_arguments;

#define MASK(layer, name, shape) {name ".weight", BOOLS, shape, OPTIONAL, (layer) * sizeof(uint8_t *)}
static argument MASKS[] = {
    MASK(W1_IN, "w1_in", "H S"),   MASK(W1_OUT, "w1_out", "NE H"), MASK(W2_IN, "w2_in", "H S"),
    MASK(W2_OUT, "w2_out", "E H"), MASK(B1, "b1", "E S"),          MASK(B2_IN, "b2_in", "E S"),
    MASK(B2_OUT, "b2_out", "1 E"), {0}};
static argument BUILD[] = {
    {"agents", COUNT, "N", 0, offsetof(build_arguments, agents)},
    {"states", COUNT, "S", 0, offsetof(build_arguments, states)},
    {"embed", COUNT, "E", 0, offsetof(build_arguments, embed)},
    {"hidden", COUNT, "H", 0, offsetof(build_arguments, hidden)},
    {"masks", NAMED, NULL, 0, offsetof(build_arguments, mask), MASKS},
    {0},
};

static void release(PyObject *capsule) { mixer_free(PyCapsule_GetPointer(capsule, MIXER)); }

FUNCTION(call_mixer_build)
{
    (void)self;
    reading r;
    build_arguments a = {0};
    mixer_network *network = NULL;
    const int read = read_call(&r, "mixer_build", BUILD, given, count, names, &a)
                     && bounded(&r, "weights", a.agents, a.embed)
                     && bounded(&r, "weights", (int64_t)a.agents * a.embed, (int64_t)a.hidden + TRAIN_LANES)
                     && bounded(&r, "weights", a.states, (int64_t)a.hidden + a.embed + TRAIN_LANES)
                     && bounded(&r, "weights", a.hidden, (int64_t)a.embed + TRAIN_LANES);
    if (read) {
        Py_BEGIN_ALLOW_THREADS
        network = mixer_build(a.agents, a.states, a.embed, a.hidden, a.mask);
        Py_END_ALLOW_THREADS
    }
    end_reading(&r);
    return !read ? NULL : network ? PyCapsule_New(network, MIXER, release) : PyErr_NoMemory();
}

/* ---- inputs ---- */

#define LAYER(layer, name, weights, biases)                                                                            \
    {name ".weight", FLOATS, weights, 0, offsetof(mixer_parameters, weight) + (layer) * sizeof(float *)},              \
        {name ".bias", FLOATS, biases, 0, offsetof(mixer_parameters, bias) + (layer) * sizeof(float *)}
static argument PARAMETERS[] = {LAYER(W1_IN, "w1_in", "H S", "H"),
                                      LAYER(W1_OUT, "w1_out", "NE H", "NE"),
                                      LAYER(W2_IN, "w2_in", "H S", "H"),
                                      LAYER(W2_OUT, "w2_out", "E H", "E"),
                                      LAYER(B1, "b1", "E S", "E"),
                                      LAYER(B2_IN, "b2_in", "E S", "E"),
                                      LAYER(B2_OUT, "b2_out", "1 E", "1"),
                                      {0}};

/* With rows, each row's state is state[row], of M; without, of R in order. */
#define INPUTS                                                                                                         \
    {"level", LEVEL_OF, NULL, 0, HERE(level)}, {"threads", COUNT, NULL, 0, HERE(threads)},                             \
        {"network", STRUCTURE, MIXER, 0, HERE(call.network), NULL, bind_mixer},                                        \
        {"parameters", NAMED, NULL, 0, HERE(call.parameters), PARAMETERS},                                             \
        {"rows", INT64S, "R", OPTIONAL, HERE(call.row)}, {"state", FLOATS, "M S", 0, HERE(call.state)}

static int check_rows(const reading *r, mixer_call *c)
{
    const int32_t states = size_of(r, 'M');
    c->rows = size_of(r, 'R'), c->repeats = size_of(r, '*');
    if (!c->row && states != c->rows)
        return refuse(r, "state is [%d, %d], expected [%d, %d]", states, c->network->states, c->rows,
                      c->network->states);
    for (int32_t i = 0; c->row && i < c->rows; i++)
        if (c->row[i] < 0 || c->row[i] >= states)
            return refuse(r, "rows has %lld, expected 0 to %d", (long long)c->row[i], states - 1);
    return bounded(r, "values", c->repeats, (int64_t)c->rows * c->network->agents);
}

/* ---- forward ---- */

static argument FORWARD[] = {
    INPUTS,
    {"q", FLOATS, "* R N", 0, HERE(call.q)},
    {"q_tot", FLOATS, "* R", 0, HERE(call.q_tot)},
    {0},
};

FUNCTION(call_mixer_forward)
{
    (void)self;
    reading r;
    mixer_arguments a = {0};
    const mixer_call *c = &a.call;
    int done = 0;
    const int read = read_call(&r, "mixer_forward", FORWARD, given, count, names, &a) && check_rows(&r, &a.call);
    if (read) {
        Py_BEGIN_ALLOW_THREADS
        done = train_run(a.level->mixer_forward, c, mixer_tasks(c), mixer_work_size(c), a.threads);
        Py_END_ALLOW_THREADS
    }
    end_reading(&r);
    return !read ? NULL : done ? Py_NewRef(Py_None) : PyErr_NoMemory();
}

/* ---- backward ---- */

#define WANTED                                                                                                         \
    {"wanted", STRUCTURE, MIXER, 0, HERE(call.gradients), NULL, bind_mixer},                                           \
        {"gradients", NAMED, NULL, 0, HERE(gradients), PARAMETERS}

static argument BACKWARD[] = {
    INPUTS,
    WANTED,
    {"q", FLOATS, "* R N", 0, HERE(call.q)},
    {"grad_q_tot", FLOATS, "* R", 0, HERE(call.grad)},
    {"grad_q", FLOATS, "* R N", 0, HERE(call.grad_q)},
    {0},
};
static argument FIT[] = {
    INPUTS,
    WANTED,
    {"q", FLOATS, "R N", 0, HERE(call.q)},
    {"target", FLOATS, "R", 0, HERE(call.target)},
    {"weight", FLOATS, "R", OPTIONAL, HERE(call.row_weight)},
    {"low", SINGLE, NULL, 0, HERE(call.low)},
    {"grad_q", FLOATS, "R N", 0, HERE(call.grad_q)},
    {"means", FLOATS, "5", 0, HERE(means)},
    {0},
};
_Static_assert(MIXER_MEANS == 5, "the shape of `means`");

/* Gradients of the parameters and of q; 0 when memory is short. */
static int run_backward(mixer_arguments *a)
{
    mixer_call *c = &a->call;
    c->partial = malloc(mixer_gradient_size(c->gradients) * (size_t)mixer_tasks(c) * sizeof(float));
    const int done = c->partial
                     && train_run(a->level->mixer_backward, c, mixer_tasks(c), mixer_work_size(c), a->threads);
    if (done)
        mixer_collect(c, &a->gradients);
    free(c->partial);
    return done;
}

static int check_some(const reading *r, const mixer_call *c)
{
    return c->rows > 0 || refuse(r, "q has no rows, expected 1 or more");
}

FUNCTION(call_mixer_backward)
{
    (void)self;
    reading r;
    mixer_arguments a = {0};
    int done = 0;
    const int read = read_call(&r, "mixer_backward", BACKWARD, given, count, names, &a) && check_rows(&r, &a.call)
                     && check_some(&r, &a.call);
    if (read) {
        Py_BEGIN_ALLOW_THREADS
        done = run_backward(&a);
        Py_END_ALLOW_THREADS
    }
    end_reading(&r);
    return !read ? NULL : done ? Py_NewRef(Py_None) : PyErr_NoMemory();
}

static int run_fit(mixer_arguments *a)
{
    mixer_call *c = &a->call;
    c->q_tot = malloc(2 * (size_t)c->rows * sizeof(float));
    c->grad = c->q_tot + c->rows;
    const int done = c->q_tot && run_backward(a);
    if (done)
        mixer_means(c, a->means);
    free(c->q_tot);
    return done;
}

FUNCTION(call_mixer_fit)
{
    (void)self;
    reading r;
    mixer_arguments a = {0};
    int done = 0;
    const int read = read_call(&r, "mixer_fit", FIT, given, count, names, &a) && bind_size(&r, FIT, '*', 1)
                     && check_rows(&r, &a.call) && check_some(&r, &a.call);
    if (read) {
        Py_BEGIN_ALLOW_THREADS
        done = run_fit(&a);
        Py_END_ALLOW_THREADS
    }
    end_reading(&r);
    return !read ? NULL : done ? Py_NewRef(Py_None) : PyErr_NoMemory();
}
