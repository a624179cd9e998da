/* The agents' calls of the extension module. Letters: G groups, T steps, B batch, N agents, F observed inputs,
 * I inputs, H hidden, A actions, R transitions, P rows of a group. */
#include "agents.h"
#include "calls.h"
#include "levels.h"

#include <stdlib.h>

static const char NETWORK[] = "mast_train.engines.native.agents";

typedef struct {
    const train_level *level;
    int32_t threads;
    agents_call call;
    PyObject *passes;
    float *gradient[PARAMETERS];
} agents_arguments;

#define HERE(member) offsetof(agents_arguments, member)
#define IN_CALL(member) offsetof(agents_call, member)

static int bind_network(reading *r, const argument *a, const void *structure)
{
    const agents_network *n = structure;
    return bind_size(r, a, 'I', n->inputs) && bind_size(r, a, 'H', n->hidden) && bind_size(r, a, 'A', n->actions)
           && (n->topologies == 1 || bind_size(r, a, 'G', n->topologies));
}

/* ---- structures ---- */

typedef struct {
    int32_t groups, inputs, hidden, actions;
    const uint8_t *mask[4];
} build_arguments;

#define MASK(name, index, shape) {name, BOOLS, shape, OPTIONAL, (index) * sizeof(uint8_t *), NULL, NULL}
static argument MASKS[] = {MASK("fc1_weight", FC1_WEIGHT, "G H I"), MASK("weight_ih", WEIGHT_IH, "G 3H H"),
                                 MASK("weight_hh", WEIGHT_HH, "G 3H H"), MASK("fc2_weight", FC2_WEIGHT, "G A H"), {0}};
static argument BUILD[] = {
    {"groups", COUNT, "G", 0, offsetof(build_arguments, groups)},
    {"inputs", COUNT, "I", 0, offsetof(build_arguments, inputs)},
    {"hidden", COUNT, "H", 0, offsetof(build_arguments, hidden)},
    {"actions", COUNT, "A", 0, offsetof(build_arguments, actions)},
    {"masks", NAMED, NULL, 0, offsetof(build_arguments, mask), MASKS},
    {0},
};

static void release(PyObject *capsule) { agents_free(PyCapsule_GetPointer(capsule, NETWORK)); }

FUNCTION(call_agents_build)
{
    (void)self;
    reading r;
    build_arguments a = {0};
    agents_network *network = NULL;
    const int read = read_call(&r, "agents_build", BUILD, given, count, names, &a)
                     && bounded(&r, "weights", 8 * (int64_t)a.hidden, a.hidden)
                     && bounded(&r, "weights", a.inputs, (int64_t)a.hidden + TRAIN_LANES)
                     && bounded(&r, "weights", a.actions, (int64_t)a.hidden + TRAIN_LANES);
    if (read) {
        Py_BEGIN_ALLOW_THREADS
        network = agents_build(a.groups, a.inputs, a.hidden, a.actions, a.mask);
        Py_END_ALLOW_THREADS
    }
    end_reading(&r);
    return !read ? NULL : network ? PyCapsule_New(network, NETWORK, release) : PyErr_NoMemory();
}

/* ---- inputs ---- */

/* The sizes of what was read: G from the parameters, T B N F from x. */
static void take_sizes(const reading *r, agents_call *c)
{
    c->groups = size_of(r, 'G'), c->steps = size_of(r, 'T'), c->batch = size_of(r, 'B'), c->agents = size_of(r, 'N');
    c->observed = size_of(r, 'F');
}

static int check_inputs(const reading *r, agents_call *c)
{
    const int32_t inputs = c->network->inputs, one_hot = c->one_hot ? c->network->actions : 0;
    const int32_t identity = inputs - c->observed - one_hot;
    if ((identity != 0 && identity != c->agents) || c->batch % c->seeds
        || (c->groups != c->seeds && (int64_t)c->groups != (int64_t)c->seeds * c->agents))
        return refuse(r, "x is [%d, %d, %d, %d], expected [T,B,N,%d], B a multiple of %d and N = %d groups or 1 group",
                      c->steps, c->batch, c->agents, c->observed, inputs, c->seeds, c->groups / c->seeds);
    c->identity = identity != 0;
    if (c->one_hot && !c->actions.data && c->steps > 1)
        return refuse(r, "actions is None, expected int64 [%d, %d, %d]", c->steps - 1, c->batch, c->agents);
    return bounded(r, "values", c->steps, (int64_t)c->batch * c->agents)
           && bounded(r, "rows", c->batch, (int64_t)c->agents + TRAIN_LANES)
           && bounded(r, "tiles", c->groups, agents_tiles(c));
}

/* Episodes, their lengths falling within a seed's part, and their first transitions, which lie within `transitions`. */
static int check_order(const reading *r, agents_call *c)
{
    const int32_t part = c->batch / c->seeds, transitions = size_of(r, 'R');
    if (!c->order)
        return !(c->taken || c->now || c->after) || refuse(r, "order is None, expected int32 [3, %d]", c->batch);
    c->length = c->order + c->batch, c->first = c->length + c->batch;
    for (int32_t i = 0; i < c->batch; i++) {
        const int32_t episode = c->order[i], length = c->length[i], first = c->first[i];
        const int fits = episode >= 0 && episode < c->batch && length >= 1 && length <= c->steps && first >= 0
                         && (i % part == 0 || length <= c->length[i - 1]);
        if (!fits || (transitions >= 0 && (int64_t)first + length - 1 > transitions))
            return refuse(r,
                          "order has episode %d of %d steps from transition %d on at place %d, expected episodes below %d, "
                          "longest first, of 1 to %d steps within %d transitions",
                          episode, length, first, i, c->batch, c->steps, transitions);
    }
    return 1;
}

/* What a backward pass needs of the forward pass before it, in floats. */
static size_t saved_floats(const agents_call *c)
{
    return agents_saved_size(c->network, c->steps) * (size_t)c->groups * (size_t)agents_tiles(c);
}

static int check_saved(const reading *r, const agents_call *c)
{
    const size_t needed = saved_floats(c);
    return (size_t)size_of(r, '*') >= needed || refuse(r, "saved has %d floats, expected %zu", size_of(r, '*'), needed);
}

static argument SAVED[] = {
    {"network", STRUCTURE, NETWORK, 0, IN_CALL(network), NULL, bind_network},
    {"groups", COUNT, "G", 0, IN_CALL(groups)},
    {"steps", COUNT, "T", 0, IN_CALL(steps)},
    {"batch", COUNT, "B", 0, IN_CALL(batch)},
    {"agents", COUNT, "N", 0, IN_CALL(agents)},
    {"seeds", COUNT, NULL, 0, IN_CALL(seeds)},
    {0},
};

FUNCTION(call_agents_saved)
{
    (void)self;
    reading r;
    agents_call c = {0};
    const int read = read_call(&r, "agents_saved", SAVED, given, count, names, &c)
                     && bounded(&r, "rows", c.batch, (int64_t)c.agents + TRAIN_LANES);
    end_reading(&r);
    return read ? PyLong_FromSize_t(saved_floats(&c)) : NULL;
}

/* ---- forward ---- */

#define PARAMETER(name, index, shape) {name, FLOATS, shape, 0, (index) * sizeof(float *), NULL, NULL}
static argument PARAMETERS_OF[] = {PARAMETER("fc1_weight", FC1_WEIGHT, "G H I"),
                                         PARAMETER("fc1_bias", FC1_BIAS, "G H"),
                                         PARAMETER("weight_ih", WEIGHT_IH, "G 3H H"),
                                         PARAMETER("weight_hh", WEIGHT_HH, "G 3H H"),
                                         PARAMETER("bias_ih", BIAS_IH, "G 3H"),
                                         PARAMETER("bias_hh", BIAS_HH, "G 3H"),
                                         PARAMETER("fc2_weight", FC2_WEIGHT, "G A H"),
                                         PARAMETER("fc2_bias", FC2_BIAS, "G A"),
                                         {0}};

#define INPUTS                                                                                                         \
    {"level", LEVEL_OF, NULL, 0, HERE(level)}, {"threads", COUNT, NULL, 0, HERE(threads)},             \
        {"seeds", COUNT, NULL, 0, HERE(call.seeds)}, {"one_hot", FLAG, NULL, 0, HERE(call.one_hot)},   \
        {"x", FLOATS, "T B N F", STRIDED, HERE(call.x)},                                                       \
        {"actions", INT64S, "T-1 B N", OPTIONAL | STRIDED, HERE(call.actions)},                                \
        {"order", INT32S, "3 B", OPTIONAL, HERE(call.order)}

static argument FORWARD[] = {INPUTS, {"passes", LISTED, NULL, 0, HERE(passes)}, {0}};
static argument PASS[] = {
    {"network", STRUCTURE, NETWORK, 0, IN_CALL(network), NULL, bind_network},
    {"parameters", NAMED, NULL, 0, IN_CALL(parameter), PARAMETERS_OF},
    {"q", FLOATS, "T B N A", OPTIONAL | STRIDED, IN_CALL(q)},
    {"taken", FLOATS, "R N", OPTIONAL, IN_CALL(taken)},
    {"now", FLOATS, "R N A", OPTIONAL, IN_CALL(now)},
    {"after", FLOATS, "R N A", OPTIONAL, IN_CALL(after)},
    {"hidden", FLOATS, "G P H", OPTIONAL, IN_CALL(initial)},
    {"next_hidden", FLOATS, "G P H", OPTIONAL, IN_CALL(final)},
    {"saved", FLOATS, "*", OPTIONAL, IN_CALL(saved)},
    {0},
};

static int read_pass(reading *r, PyObject *from, const agents_call *first, agents_call *c)
{
    if (!read_named(r, "pass", PASS, from, c))
        return 0;
    take_sizes(r, c);
    if (first != c && (c->groups != first->groups || c->network->inputs != first->network->inputs))
        return refuse(r, "networks of different groups or inputs: %d of %d and %d of %d", first->groups,
                      first->network->inputs, c->groups, c->network->inputs);
    if (!check_inputs(r, c) || !check_order(r, c) || (c->saved && !check_saved(r, c)))
        return 0;
    if (c->taken && !c->actions.data && c->steps > 1)
        return refuse(r, "actions is None, expected those whose values are `taken`");
    if ((c->initial || c->final) && size_of(r, 'P') != agents_rows(c))
        return refuse(r, "hidden is [%d, %d, %d], expected [%d, %d, %d]", c->groups, size_of(r, 'P'),
                      c->network->hidden, c->groups, agents_rows(c), c->network->hidden);
    return 1;
}

/* The passes in the same order, each beside the one before; their work in floats, 0: refused. */
static size_t read_passes(reading *r, PyObject *passes, agents_call c[TRAIN_PASSES])
{
    const Py_ssize_t number = PySequence_Size(passes);
    if (number < 1 || number > TRAIN_PASSES)
        return (size_t)refuse(r, "passes are %zd, expected 1 to %d", number, TRAIN_PASSES);
    const sizes shared = r->size;
    const agents_call inputs = c[0];
    size_t work = 0;
    for (Py_ssize_t i = 0; i < number; i++) {
        c[i] = inputs;
        r->size = shared;
        PyObject *pass = PySequence_GetItem(passes, i);
        const int read = pass && read_pass(r, pass, &c[0], &c[i]);
        Py_XDECREF(pass);
        if (!read)
            return 0;
        work += agents_work_size(&c[i]);
    }
    for (Py_ssize_t i = 0; i + 1 < number; i++)
        c[i].beside = &c[i + 1];
    return work;
}

FUNCTION(call_agents_forward)
{
    (void)self;
    reading r;
    agents_arguments a = {0};
    agents_call pass[TRAIN_PASSES];
    size_t work = 0;
    int done = 0;
    if (read_call(&r, "agents_forward", FORWARD, given, count, names, &a)) {
        pass[0] = a.call;
        work = read_passes(&r, a.passes, pass);
    }
    if (work) {
        Py_BEGIN_ALLOW_THREADS
        done = train_run(a.level->agents_forward, pass, pass->groups * agents_tiles(pass), work, a.threads);
        Py_END_ALLOW_THREADS
    }
    end_reading(&r);
    return !work ? NULL : done ? Py_NewRef(Py_None) : PyErr_NoMemory();
}

/* ---- backward ---- */

static argument BACKWARD[] = {
    INPUTS,
    {"network", STRUCTURE, NETWORK, 0, HERE(call.network), NULL, bind_network},
    {"wanted", STRUCTURE, NETWORK, 0, HERE(call.gradients), NULL, bind_network},
    {"parameters", NAMED, NULL, 0, HERE(call.parameter), PARAMETERS_OF},
    {"grad_q", FLOATS, "T B N A", OPTIONAL | STRIDED, HERE(call.q)},
    {"grad_taken", FLOATS, "R N", OPTIONAL, HERE(call.taken)},
    {"saved", FLOATS, "*", 0, HERE(call.saved)},
    {"gradients", NAMED, NULL, 0, HERE(gradient), PARAMETERS_OF},
    {0},
};

static int read_backward(reading *r, agents_call *c)
{
    take_sizes(r, c);
    if (!check_inputs(r, c) || !check_order(r, c) || !check_saved(r, c))
        return 0;
    if (c->taken && !c->actions.data && c->steps > 1)
        return refuse(r, "actions is None, expected those whose values were `taken`");
    for (int32_t g = 0; g < c->groups; g++) {
        const size_t size = agents_gradient_size(c->network, agents_topology_of(c->gradients, g));
        c->partial_size = c->partial_size > size ? c->partial_size : size;
    }
    return 1;
}

FUNCTION(call_agents_backward)
{
    (void)self;
    reading r;
    agents_arguments a = {0};
    agents_call *const c = &a.call;
    int done = 0;
    const int read = read_call(&r, "agents_backward", BACKWARD, given, count, names, &a) && read_backward(&r, c);
    if (read) {
        const int32_t tasks = c->groups * agents_tiles(c);
        Py_BEGIN_ALLOW_THREADS
        c->partial = malloc(c->partial_size * (size_t)tasks * sizeof(float));
        done = c->partial && train_run(a.level->agents_backward, c, tasks, agents_work_size(c), a.threads);
        if (done)
            agents_collect(c, a.gradient);
        free(c->partial);
        Py_END_ALLOW_THREADS
    }
    end_reading(&r);
    return !read ? NULL : done ? Py_NewRef(Py_None) : PyErr_NoMemory();
}
