"""A policy in C whose actions are continuous: what its header, its code and its tests say of that (see text).

The squashing is mast_runtime.native's: the same rational tanh, the same steps.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mast_export.c.matrices import Table
from mast_export.fixed import MEMORY
from mast_runtime.head import Head

WITHIN = """\
static float within(float x, float low, float high)
{
    return x < low ? low : x > high ? high : x;
}
"""

CODE = """\
/* @SHARES_ARE@ in [-1, 1], and then in the action's units. */
static void squash(@prefix@_state *state, @FOUND@float *action)
{
    for (int k = 0; k < ACTIONS; k++) {
        float u = @SHARE@;
@RATE_LIMITED@        state->last_action[k] = u;
        action[k] = within(middle[k] + u * half_range[k], @prefix@_low[k], @prefix@_high[k]);
    }
}

int @prefix@_executed(@prefix@_state *state, const float *action)
{
    if (!all_finite(action, ACTIONS))
        return @PREFIX@_ACTION_NOT_FINITE;
    for (int k = 0; k < ACTIONS; k++)
        state->last_action[k] = clamp((action[k] - middle[k]) / half_range[k], 1.0f);
    return 0;
}
"""

RATE_LIMITED = """\
        u = within(u, state->last_action[k] - @REACH@f, state->last_action[k] + @REACH@f);
"""

HEADER = {
    "ACTIONS_ARE": " /* components of an action */",
    "BOUNDS": """\

#define @PREFIX@_CONTINUOUS 1
@RATE_LIMIT_DEFINE@
/* The bounds of each component, in the environment's units, @WITHIN@. */
extern const float @prefix@_low[@PREFIX@_ACTIONS], @prefix@_high[@PREFIX@_ACTIONS];
""",
    "Q_IS": "the network's outputs, before tanh,",
    "LAST_FIELD": (
        "@HIDDEN_TYPE@ last_action[@PREFIX@_ACTIONS]; "
        "/* carried out last, from -1 (low) to 1 (high)@HIDDEN_UNIT@; 0: none yet */"
    ),
    "REFUSAL": "@PREFIX@_ACTION_NOT_FINITE = -2, /* likewise what was carried out */",
    "ACT_API": """\
/* 0, and in `action` its @PREFIX@_ACTIONS components, each within its bounds; or one of the refusals above, `action`
 * being as it was. obs has @PREFIX@_OBS values. */
int @prefix@_act(@prefix@_state *state, const float *obs, float *action);""",
    "EXECUTED_API": """\
 * In the same units; what is outside the bounds counts as the bound. 0, or @PREFIX@_ACTION_NOT_FINITE. */
int @prefix@_executed(@prefix@_state *state, const float *action);""",
}

RATE_LIMIT_DEFINE = """\
#define @PREFIX@_RATE_LIMIT @RATE_LIMIT@f /* the most that a component moves in a decision, of its range */
"""

FLOAT = {
    "SHARES_ARE": "The outputs",
    "FOUND": "",
    "SHARE": "clamp(tanh_fit(state->q[k]), 1.0f)",
    "RESET_LAST": """\
    for (int k = 0; k < ACTIONS; k++)
        state->last_action[k] = 0.0f;""",
    "LAST_ONE": "1.0",
    "ACT_TO": "float *action",
    "LAST_ACTION": "    copy(x + OBS, state->last_action, ACTIONS);\n",
    "DECISION": """\
@KEEP_HIDDEN@    copy(state->q, q, ACTIONS);
    squash(state, action);
    return 0;""",
}
"""Of the float code; LAST_ACTION where it is an input."""

FIXED_CODE = """\
static void squash(@prefix@_state *state)
{
    for (int k = 0; k < ACTIONS; k++) {
        int32_t u = tanh_fixed(state->q[k] >> Q_TO_TANH);
@RATE_LIMITED@        state->last_action[k] = (int16_t)u;
    }
}
"""

FIXED_RATE_LIMITED = """\
        const int32_t last = state->last_action[k];
        u = last + clamp(u - last, @REACH_I16@);
"""

FIXED = {
    "RESET_LAST": """\
    for (int k = 0; k < ACTIONS; k++) {
        state->last_action[k] = 0;
    }""",
    "LAST_ONE": "32767.0",
    "DECIDE_TO": "",
    "AVAILABLE": "",
    "LAST_ACTION": """\
    for (int k = 0; k < ACTIONS; k++) {
        x[OBS + k] = (int16_t)scaled(state->last_action[k], 1);
    }""",
    "DECISION": """\
    squash(state);
    return 0;""",
    "INTEGER_API": """\
/* Components from -32767, the low bound, to 32767, the high one. Only functions of units compute in float. */
int @prefix@_act_i16(@prefix@_state *state, const int16_t *obs, int16_t *action);
int @prefix@_executed_i16(@prefix@_state *state, const int16_t *action);""",
    "ACT": """\
int @prefix@_act(@prefix@_state *state, const float *obs, float *action)
{
    int16_t x[INPUTS];
@CONVERT_OBS@
    const int result = decide(state, x);
    for (int k = 0; k < ACTIONS; k++) {
        const float value = middle[k] + (float)state->last_action[k] * half_range[k];
        action[k] = within(value, @prefix@_low[k], @prefix@_high[k]);
    }
    return result;
}

int @prefix@_act_i16(@prefix@_state *state, const int16_t *obs, int16_t *action)
{
    int16_t x[INPUTS];
@COPY_OBS@
    const int result = decide(state, x);
    for (int k = 0; k < ACTIONS; k++) {
        action[k] = state->last_action[k];
    }
    return result;
}

int @prefix@_executed(@prefix@_state *state, const float *action)
{
    if (!all_finite(action, ACTIONS)) {
        return @PREFIX@_ACTION_NOT_FINITE;
    }
    for (int k = 0; k < ACTIONS; k++) {
        const float u = within((action[k] - middle[k]) / half_range[k], -32767.0f, 32767.0f);
        state->last_action[k] = (int16_t)(u < 0.0f ? u - 0.5f : u + 0.5f);
    }
    return 0;
}

int @prefix@_executed_i16(@prefix@_state *state, const int16_t *action)
{
    for (int k = 0; k < ACTIONS; k++) {
        state->last_action[k] = (int16_t)clamp(action[k], 32767);
    }
    return 0;
}
""",
    "BEFORE_ACT": "        @prefix@_state twin = state;\n        int16_t integers[ACTIONS];\n",
    "AFTER_ACT": """\
        expect(@prefix@_act_i16(&twin, @prefix@_trace_obs_i16[t], integers) == 0 && same(&twin, &state) &&
                   !memcmp(integers, state.last_action, sizeof integers),
               "integers and floats differ", t);
""",
    "SELFTEST_STEP": """\
        int16_t action[@PREFIX@_ACTIONS];
        const int result = @prefix@_act_i16(&state, obs[t], action);
        for (int k = 0; k < @PREFIX@_ACTIONS; k++) {
            if (result != 0 || !near(state.q[k], q[t][k]) || action[k] != actions[t][k])
                return 1 + t;
        }""",
}
"""Of the code in fixed point and its tests; LAST_ACTION where it is an input."""

TEST = {
    "ACTION_IS": "result and action",
    "WHERE_STEADY": "",
    "SAME_LAST": "!memcmp(a->last_action, b->last_action, sizeof a->last_action)",
    "ACTION_BITS": """\
static void print_action(int result, const float *action)
{
    printf("%d", result);
    for (int k = 0; k < ACTIONS; k++) {
        uint32_t bits;
        memcpy(&bits, action + k, sizeof bits);
        printf(" %08lx", (unsigned long)bits);
    }
}
""",
    "TRACED": """\
        float action[ACTIONS] = {0};
        memcpy(state.last_action, @prefix@_trace_last_action[t], sizeof state.last_action);
@BEFORE_ACT@        const int result = @prefix@_act(&state, obs, action);""",
    "PRINTED": "print_action(result, action)",
    "CHECKED": """\
        expect(result == 0, "no action", t);
        if (result != 0)
            break;
        for (int k = 0; k < ACTIONS; k++) {
            const double expected = (double)@prefix@_trace_action[t][k];
            expect(@WHERE_STEADY@near((double)action[k], expected, (double)@prefix@_trace_tolerance[k]),
                   "another action", t);
            expect(action[k] >= @prefix@_low[k] && action[k] <= @prefix@_high[k], "an action outside its bounds", t);
        }""",
    "ACT_ANY": "any",
    "ACT_GIVEN": "action",
    "RESULT": "result",
    "ANY_ACTION": "    float any[ACTIONS] = {0};\n",
    "NONE_AVAILABLE": "",
    "REFUSED": """\
    expect(same(&before, state), "a refusal changes the state", 0);
    for (unsigned i = 0; i < 3u * ACTIONS; i++) {
        memcpy(any, @prefix@_high, sizeof any);
        memcpy(any + i / 3, bad + i % 3, sizeof *any);
        const int refusal = @prefix@_executed(state, any);
        expect(refusal == @PREFIX@_ACTION_NOT_FINITE, "an action that is not finite was carried out", 0);
    }
    expect(same(&before, state), "a refusal changes the state", 0);
    for (int side = 0; side < 3; side++) {
        for (int k = 0; k < ACTIONS; k++)
            any[k] = side == 0 ? @prefix@_low[k] : side == 1 ? @prefix@_high[k] : 3e38f;
        expect(@prefix@_executed(state, any) == 0, "is not told what was carried out", 0);
        for (int k = 0; k < ACTIONS; k++)
            expect(near((double)state->last_action[k], side ? @LAST_ONE@ : -@LAST_ONE@,
                        (1e-5 + (double)(2.0f * @prefix@_trace_tolerance[k] / (@prefix@_high[k] - @prefix@_low[k])))
                            * @LAST_ONE@),
                   "counts as another action", 0);
    }""",
    "SELFTEST_STEP": """\
        float action[@PREFIX@_ACTIONS];
@SELFTEST_ACT@
        for (int k = 0; k < @PREFIX@_ACTIONS; k++) {
            const float off = action[k] - actions[t][k], most = action_tolerance[k];
            if (result != 0 || !near(state.q[k], q[t][k]) || !(off <= most && -off <= most))
                return 1 + t;
        }
        @prefix@_executed(&state, actions[t]);""",
}


def tables(head: Head, prefix: str, one: float = 1.0) -> tuple[list[Table], list[Table]]:
    """Of the head of one agent: the bounds, which the header declares, and what only the code needs.

    one: what stands for 1 where actions lie in [-1, 1].
    """
    low, high = (np.array(side[0]) for side in (head.low, head.high))
    named = {f"{prefix}_low": low, f"{prefix}_high": high}
    named |= {"middle": 0.5 * (low + high), "half_range": 0.5 * (high - low) / one}
    found = [Table("float", name, values.astype(np.float32)) for name, values in named.items()]
    return found[:2], found[2:]


def words(head: Head, fixed: bool) -> dict[str, str]:
    """What replaces the @NAMES@ that are the head's own."""
    limited = head.rate_limit is not None
    limit = head.rate_limit or 0.0
    return {
        "WITHIN": replace(head, rate_limit=None).sentence(),
        "RATE_LIMIT_DEFINE": RATE_LIMIT_DEFINE if limited else "",
        "RATE_LIMITED": (FIXED_RATE_LIMITED if fixed else RATE_LIMITED) if limited else "",
        "RATE_LIMIT": str(np.float32(limit)),
        "REACH": str(np.float32(2.0 * limit)),
        "REACH_I16": f"{np.rint(2.0 * limit * MEMORY):.0f}",
    }
