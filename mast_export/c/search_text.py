"""A policy in C that searches for its action: what it adds to bounded_text, and its tables.

The search is mast_runtime.search's, candidate by candidate on the same numbers, in float. A candidate is made twice,
for its value and as an elite, so none is stored.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mast_export.c.matrices import Table
from mast_runtime.head import Search
from mast_runtime.network import Network
from mast_runtime.search import GRID, reading

CODE = """\
enum { OUTPUTS = @PREFIX@_OUTPUTS, UNITS = @UNITS@ };
enum { ITERATIONS = @ITERATIONS@, CANDIDATES = @CANDIDATES@, ELITES = @ELITES@ };

/* Newton's method, from half of the exponent. */
static float square_root(float x)
{
    float_bits f = {x};
    if (!(x > 1e-30f))
        return 0.0f;
    f.bits = (f.bits >> 1) + 0x1fbb4f2eu;
    for (int i = 0; i < 3; i++)
        f.value = 0.5f * (f.value + x / f.value);
    return f.value;
}

/* Candidate j: the mean, what was found so far, or drawn from around the mean. */
static void candidate(int j, const float *noise, const float *mean, const float *spread, const float *found, float *u)
{
    for (int k = 0; k < ACTIONS; k++)
        u[k] = j == 1 ? found[k] : clamp(mean[k] + spread[k] * noise[j * ACTIONS + k], 1.0f);
}

/* The value of an action without what all actions have in common: of the units that it leads to. read: all else that
 * leads to them. */
static float value_of(const float *read, const float *u)
{
    const float @COMPONENTS@;
    const float *w = search_weights;
    float sum = 0.0f;
    for (int i = 0; i < UNITS; i++, w += ACTIONS + 1) {
        const float y = read[i] + @PRODUCTS@;
        if (!(y <= 0.0f)) /* NaN too, which is then refused */
            sum += w[ACTIONS] * y;
    }
    return sum;
}

/* Puts place j, of this key, into a heap whose root is gone; parents go after their children: of a smaller key, or of
 * an equal key and a later place. */
static void sink(int32_t *keys, int *order, int size, int32_t key, int j)
{
    int i = 0, child;
    while ((child = 2 * i + 1) < size) {
        const int next = child + 1;
        if (next < size && (keys[next] != keys[child] ? keys[next] < keys[child] : order[next] > order[child]))
            child = next;
        if (keys[child] != key ? keys[child] > key : order[child] < j)
            break;
        keys[i] = keys[child];
        order[i] = order[child];
        i = child;
    }
    keys[i] = key;
    order[i] = j;
}

/* The places of the largest values, the earlier of those that are equal on a grid of the largest. */
static void find_elites(const float *values, int *order)
{
    float largest = 0.0f;
    for (int j = 0; j < CANDIDATES; j++)
        largest = values[j] > largest ? values[j] : -values[j] > largest ? -values[j] : largest;
    int32_t keys[ELITES];
    for (int e = 0; e < ELITES; e++) {
        keys[e] = INT32_MIN;
        order[e] = 0;
    }
    for (int j = 0; j < CANDIDATES; j++) {
        /* of a largest with a finite inverse, whichever way it is divided by: only a finite number has an integer */
        const float steps = largest > 1.2e-38f ? values[j] / largest * @GRID@f : 0.0f;
        const int32_t key = (int32_t)(steps < 0.0f ? steps - 0.5f : steps + 0.5f);
        if (key > keys[0])
            sink(keys, order, ELITES, key, j);
    }
    for (int last = ELITES - 1; last > 0; last--) {
        const int32_t key = keys[last];
        const int j = order[last];
        keys[last] = keys[0];
        order[last] = order[0];
        sink(keys, order, last, key, j);
    }
}

/* The cross-entropy method: 1, and in `found` the best action in [-1, 1]; 0 where a value overflows. */
static int search(const float *outputs, float *found)
{
    float read[UNITS], values[CANDIDATES], elites[ELITES * ACTIONS], mean[ACTIONS], spread[ACTIONS], u[ACTIONS];
    const float *noise = search_noise;
    int order[ELITES];
    for (int i = 0; i < UNITS; i++)
        read[i] = outputs[search_units[i]];
    for (int k = 0; k < ACTIONS; k++) {
        mean[k] = found[k] = 0.0f;
        spread[k] = 1.0f;
    }
    for (int i = 0; i < ITERATIONS; i++, noise += CANDIDATES * ACTIONS) {
        for (int j = 0; j < CANDIDATES; j++) {
            candidate(j, noise, mean, spread, found, u);
            values[j] = value_of(read, u);
            if (!finite_value(values[j]))
                return 0;
        }
        find_elites(values, order);
        for (int e = 0; e < ELITES; e++)
            candidate(order[e], noise, mean, spread, found, elites + e * ACTIONS);
        for (int k = 0; k < ACTIONS; k++) {
            float sum = 0.0f, squares = 0.0f;
            for (int e = 0; e < ELITES; e++) {
                const float value = elites[e * ACTIONS + k], off = value - mean[k];
                sum += value;
                squares += off * off;
            }
            found[k] = elites[k];
            mean[k] = sum / (float)ELITES;
            spread[k] = square_root(squares / (float)ELITES);
        }
    }
    return 1;
}
"""

HEADER = {
    "Q_IS": "the network's outputs, from which the action is searched for,",
    "OUTPUTS_DEFINE": "#define @PREFIX@_OUTPUTS @OUTPUT_COUNT@ /* of the network */\n",
    "Q_COUNT": "@PREFIX@_OUTPUTS",
    "OUTPUTS": "OUTPUTS",
}

FLOAT = {
    "SHARES_ARE": "What the search found,",
    "FOUND": "const float *found, ",
    "SHARE": "found[k]",
    "DECISION": """\
    float found[ACTIONS];
    if (!search(q, found))
        return @PREFIX@_OVERFLOW;
@KEEP_HIDDEN@    copy(state->q, q, OUTPUTS);
    squash(state, found, action);
    return 0;""",
}

TEST = {
    "TEST_OUTPUTS": ", OUTPUTS = @PREFIX@_OUTPUTS",
    "WHERE_STEADY": "!@prefix@_trace_steady[t] || ",
    "SELFTEST_STEP": """\
        float action[@PREFIX@_ACTIONS];
@SELFTEST_ACT@
        if (result != 0)
            return 1 + t;
        for (int i = 0; i < @PREFIX@_OUTPUTS; i++)
            if (!near(state.q[i], q[t][i]))
                return 1 + t;
        for (int k = 0; k < @PREFIX@_ACTIONS; k++) {
            const float off = action[k] - actions[t][k], most = action_tolerance[k];
            if (steady[t] && !(off <= most && -off <= most))
                return 1 + t;
        }
        @prefix@_executed(&state, actions[t]);""",
}
"""steady: of steps where rounding does not lead the search elsewhere, between actions of about one value."""


def tables(search: Search, network: Network) -> list[Table]:
    """Of one agent: the units that read an action, the weights to and from each, the normal numbers."""
    act, fc3 = network.act.dense(), network.fc3.dense()[0]
    units = reading(act, fc3)
    noise: NDArray = np.frombuffer(search.noise, "<f4")
    return [
        Table("uint8_t" if units.max() < 256 else "uint16_t", "search_units", units),
        Table("float", "search_weights", np.column_stack([act[units], fc3[units]]).astype(np.float32)),
        Table("float", "search_noise", noise),
    ]


def words(search: Search, network: Network, size: int) -> dict[str, str]:
    """What replaces the @NAMES@ that are the search's own. size: components of the agent."""
    units = reading(network.act.dense(), network.fc3.dense()[0]).size
    return {
        "OUTPUT_COUNT": str(network.fc2.outputs),
        "UNITS": str(units),
        "ITERATIONS": str(search.iterations),
        "CANDIDATES": str(search.candidates),
        "ELITES": str(search.elites),
        "GRID": str(np.float32(1.0 / GRID)),
        "COMPONENTS": _listed([f"u{k} = u[{k}]" for k in range(size)], ", "),
        "PRODUCTS": _listed([f"w[{k}] * u{k}" for k in range(size)], " + "),
    }


def _listed(parts: list[str], between: str) -> str:
    """Six to a line."""
    lines = [between.join(parts[i : i + 6]) for i in range(0, len(parts), 6)]
    return f"{between.rstrip()}\n            ".join(lines)


def stack(search: Search, network: Network, size: int) -> int:
    """Numbers of four bytes in the search's arrays."""
    units = reading(network.act.dense(), network.fc3.dense()[0]).size
    return units + search.candidates + search.elites * (size + 2) + 4 * size
