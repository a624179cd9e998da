/* The call that finds the transitions of a batch. Letters: B episodes, L transitions of the longest. */
#include "calls.h"

#include <stdlib.h>

typedef struct {
    int32_t seeds;
    const uint8_t *filled;
    int64_t *places; /* [3, B L]: of each transition the row in [B, L], now and next in [B, L + 1] */
    int32_t *order;  /* [3, B]: episodes, each seed's longest first, their steps, their first transitions */
} episodes_arguments;

static argument EPISODES[] = {
    {"seeds", COUNT, NULL, 0, offsetof(episodes_arguments, seeds)},
    {"filled", BOOLS, "B L", 0, offsetof(episodes_arguments, filled)},
    {"places", INT64S, "3 BL", 0, offsetof(episodes_arguments, places)},
    {"order", INT32S, "3 B", 0, offsetof(episodes_arguments, order)},
    {0},
};

/* Transitions of each episode and their sum; where they are. */
static int64_t find_transitions(const episodes_arguments *a, int32_t episodes, int32_t steps, int32_t *length,
                                int32_t *first)
{
    const size_t most = (size_t)episodes * (size_t)steps;
    int64_t *now = a->places + most, *after = now + most, row = 0;
    for (int32_t b = 0; b < episodes; b++) {
        first[b] = (int32_t)row;
        for (length[b] = 0; length[b] < steps && a->filled[b * steps + length[b]]; length[b]++, row++) {
            a->places[row] = (int64_t)b * steps + length[b];
            now[row] = a->places[row] + b;
            after[row] = now[row] + 1;
        }
    }
    return row;
}

static void sort_episodes(const episodes_arguments *a, int32_t episodes, const int32_t *found_length,
                          const int32_t *found_first)
{
    int32_t *order = a->order, *length = order + episodes, *first = length + episodes;
    for (int32_t b = 0, part = episodes / a->seeds; b < episodes; b++) {
        int32_t place = b; /* equal ones in order */
        for (; place % part && length[place - 1] < found_length[b] + 1; place--) {
            order[place] = order[place - 1];
            length[place] = length[place - 1];
            first[place] = first[place - 1];
        }
        order[place] = b, length[place] = found_length[b] + 1, first[place] = found_first[b];
    }
}

FUNCTION(call_episodes)
{
    (void)self;
    reading r;
    episodes_arguments a = {0};
    PyObject *result = NULL;
    if (read_call(&r, "episodes", EPISODES, given, count, names, &a)) {
        const int32_t episodes = size_of(&r, 'B'), steps = size_of(&r, 'L');
        int32_t *length = malloc(2 * (size_t)episodes * sizeof *length);
        if (episodes % a.seeds)
            refuse(&r, "filled has %d episodes, expected a multiple of %d seeds", episodes, a.seeds);
        else if (!length)
            PyErr_NoMemory();
        else if (bounded(&r, "transitions", episodes, steps)) {
            const int64_t rows = find_transitions(&a, episodes, steps, length, length + episodes);
            sort_episodes(&a, episodes, length, length + episodes);
            result = PyLong_FromLongLong(rows);
        }
        free(length);
    }
    end_reading(&r);
    return result;
}
