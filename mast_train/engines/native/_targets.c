/* The targets' calls of the extension module. Letters: A actions, B episodes, L transitions of the longest,
 * R transitions, * rows. */
#include "calls.h"
#include "levels.h"
#include "panels.h"
#include "targets.h"

typedef struct {
    const train_level *level;
    int32_t threads;
    mellow_call call;
} mellow_arguments;

#define HERE(member) offsetof(mellow_arguments, member)
static argument MELLOW[] = {
    {"level", LEVEL_OF, NULL, 0, HERE(level)},
    {"threads", COUNT, NULL, 0, HERE(threads)},
    {"q", FLOATS, "* A", 0, HERE(call.q)},
    {"select", FLOATS, "* A", 0, HERE(call.select)},
    {"avail", BOOLS, "* A", 0, HERE(call.avail)},
    {"alpha", SINGLE, NULL, 0, HERE(call.alpha)},
    {"omega", SINGLE, NULL, 0, HERE(call.omega)},
    {"value", FLOATS, "*", 0, HERE(call.value)},
    {0},
};

FUNCTION(call_soft_mellowmax)
{
    (void)self;
    reading r;
    mellow_arguments a = {0};
    mellow_call *const c = &a.call;
    int done = 0;
    int read = read_call(&r, "soft_mellowmax", MELLOW, given, count, names, &a);
    if (read) {
        c->rows = size_of(&r, '*'), c->actions = size_of(&r, 'A');
        read = bounded(&r, "values", c->actions, (int64_t)c->rows + TRAIN_LANES);
    }
    if (read) {
        const int32_t tiles = (c->rows + TRAIN_LANES - 1) / TRAIN_LANES;
        Py_BEGIN_ALLOW_THREADS
        done = train_run(a.level->soft_mellowmax, c, tiles, 5 * (size_t)c->actions * TRAIN_LANES, a.threads);
        Py_END_ALLOW_THREADS
    }
    end_reading(&r);
    return !read ? NULL : done ? Py_NewRef(Py_None) : PyErr_NoMemory();
}

typedef struct {
    const float *reward, *next_value;   /* [B, L]; of the filled ones, in their order [R] */
    const uint8_t *terminated, *filled; /* [B, L] */
    float gamma;
    const float *lambda; /* [B] */
    float *target;       /* [R] */
} lambda_arguments;

#undef HERE
#define HERE(member) offsetof(lambda_arguments, member)
static argument RETURNS[] = {
    {"reward", FLOATS, "B L", 0, HERE(reward)},
    {"next_value", FLOATS, "R", 0, HERE(next_value)},
    {"terminated", BOOLS, "B L", 0, HERE(terminated)},
    {"filled", BOOLS, "B L", 0, HERE(filled)},
    {"gamma", SINGLE, NULL, 0, HERE(gamma)},
    {"lam", FLOATS, "B", 0, HERE(lambda)},
    {"target", FLOATS, "R", 0, HERE(target)},
    {0},
};

static int32_t length_of(const lambda_arguments *a, int32_t first, int32_t steps)
{
    int32_t count = 0;
    while (count < steps && a->filled[first + count])
        count++;
    return count;
}

static void take_returns(const lambda_arguments *a, int32_t episodes, int32_t steps)
{
    for (int32_t b = 0, row = 0; b < episodes; b++) {
        const int32_t first = b * steps, count = length_of(a, first, steps);
        float keep = 0.0f, following = 0.0f; /* nothing follows the last transition */
        for (int32_t t = count - 1; t >= 0; t--, keep = a->lambda[b]) {
            const float mixed = (1.0f - keep) * a->next_value[row + t] + keep * following;
            following = a->reward[first + t] + a->gamma * (a->terminated[first + t] ? 0.0f : mixed);
            a->target[row + t] = following;
        }
        row += count;
    }
}

FUNCTION(call_td_lambda)
{
    (void)self;
    reading r;
    lambda_arguments a;
    int read = read_call(&r, "td_lambda", RETURNS, given, count, names, &a);
    if (read) {
        const int32_t episodes = size_of(&r, 'B'), steps = size_of(&r, 'L');
        int64_t rows = 0;
        read = bounded(&r, "transitions", episodes, steps);
        for (int32_t b = 0; read && b < episodes; b++)
            rows += length_of(&a, b * steps, steps);
        if (read && rows != size_of(&r, 'R'))
            read = refuse(&r, "next_value is [%d], expected [%lld], the filled transitions", size_of(&r, 'R'),
                          (long long)rows);
        if (read)
            take_returns(&a, episodes, steps);
    }
    end_reading(&r);
    return read ? Py_NewRef(Py_None) : NULL;
}
