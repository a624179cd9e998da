"""A policy in C that chooses among actions: what its header, its code and its tests say of that (see text)."""

CODE = """\
static int best_action(const @Q_TYPE@ *q, const uint8_t *avail)
{
    int best = @PREFIX@_NO_ACTION;
    for (int a = 0; a < ACTIONS; a++) {
        if ((avail == NULL || avail[a]) && (best < 0 || q[a] > q[best])) {
            best = a;
        }
    }
    return best;
}

void @prefix@_executed(@prefix@_state *state, int action)
{
    state->last_action = action >= 0 && action < ACTIONS ? action : -1;
}
"""

HEADER = {
    "ACTIONS_ARE": "",
    "BOUNDS": "",
    "Q_IS": "action values",
    "LAST_FIELD": "int last_action; /* carried out last, -1: none yet */",
    "REFUSAL": "@PREFIX@_NO_ACTION = -2,      /* no action is available */",
    "ACT_API": """\
/* The available action with the largest value, the lowest of equals, or one of the refusals above.
 * obs has @PREFIX@_OBS values; avail has @PREFIX@_ACTIONS flags (not 0: available), or is NULL: all are. */
int @prefix@_act(@prefix@_state *state, const float *obs, const uint8_t *avail);""",
    "EXECUTED_API": """\
 * An action out of range stands for none. */
void @prefix@_executed(@prefix@_state *state, int action);""",
}

FLOAT = {
    "RESET_LAST": "    state->last_action = -1;",
    "ACT_TO": "const uint8_t *avail",
    "LAST_ACTION": """\
    for (int a = 0; a < ACTIONS; a++)
        x[OBS + a] = a == state->last_action ? 1.0f : 0.0f;
""",
    "DECISION": """\
    const int action = best_action(q, avail);
    if (action < 0)
        return action;
@KEEP_HIDDEN@    copy(state->q, q, ACTIONS);
    state->last_action = action;
    return action;""",
}
"""Of the float code; LAST_ACTION where it is an input."""

ANY_AVAILABLE = """\
static int any_available(const uint8_t *avail)
{
    int a = 0;
    while (avail != NULL && a < ACTIONS && !avail[a]) {
        a++;
    }
    return a < ACTIONS;
}
"""

FIXED = {
    "RESET_LAST": "    state->last_action = -1;",
    "DECIDE_TO": ", const uint8_t *avail",
    "AVAILABLE": """\
    if (!any_available(avail)) {
        return @PREFIX@_NO_ACTION;
    }
""",
    "LAST_ACTION": """\
    for (int a = 0; a < ACTIONS; a++) {
        x[OBS + a] = a == state->last_action ? 16384 : 0;
    }""",
    "DECISION": """\
    state->last_action = best_action(state->q, avail);
    return state->last_action;""",
    "INTEGER_API": "int @prefix@_act_i16(@prefix@_state *state, const int16_t *obs, const uint8_t *avail);",
    "ACT": """\
int @prefix@_act(@prefix@_state *state, const float *obs, const uint8_t *avail)
{
    int16_t x[INPUTS];
@CONVERT_OBS@
    return decide(state, x, avail);
}

int @prefix@_act_i16(@prefix@_state *state, const int16_t *obs, const uint8_t *avail)
{
    int16_t x[INPUTS];
@COPY_OBS@
    return decide(state, x, avail);
}
""",
    "BEFORE_ACT": "        @prefix@_state twin = state;\n",
    "AFTER_ACT": """\
        expect(@prefix@_act_i16(&twin, @prefix@_trace_obs_i16[t], avail) == action && same(&twin, &state),
               "integers and floats differ", t);
""",
    "SELFTEST_ACT": "        const int action = @prefix@_act_i16(&state, obs[t], NULL);",
}
"""Of the code in fixed point and its tests; LAST_ACTION where it is an input."""

TEST = {
    "ACTION_IS": "action",
    "SAME_LAST": "a->last_action == b->last_action",
    "ACTION_BITS": """\
static void print_action(int action)
{
    printf("%d", action);
}
""",
    "TRACED": """\
        const uint8_t *const avail = @prefix@_trace_avail[t];
        const int expected = @prefix@_trace_action[t];
        @prefix@_executed(&state, @prefix@_trace_last_action[t]);
@BEFORE_ACT@        const int action = @prefix@_act(&state, obs, avail);""",
    "PRINTED": "print_action(action)",
    "CHECKED": """\
        expect(action >= 0 && action < ACTIONS, "no action", t);
        if (action < 0 || action >= ACTIONS)
            break;
        expect((double)q[action] >= (double)q[expected] - @PREFIX@_TRACE_Q_TOLERANCE, "another action", t);""",
    "ACT_ANY": "NULL",
    "ACT_GIVEN": "NULL",
    "RESULT": "action",
    "ANY_ACTION": "",
    "NONE_AVAILABLE": "    static const uint8_t none[ACTIONS] = {0};\n",
    "REFUSED": """\
    const int refusal = @prefix@_act(state, @prefix@_trace_obs[0], none);
    expect(refusal == @PREFIX@_NO_ACTION, "acts where no action is available", 0);
    expect(same(&before, state), "a refusal changes the state", 0);
    @prefix@_executed(state, 0);
    expect(state->last_action == 0, "is not told what was carried out", 0);
    @prefix@_executed(state, ACTIONS);
    expect(state->last_action == -1, "an action out of range was carried out", 0);""",
    "SELFTEST_STEP": """\
        const int expected = actions[t];
@SELFTEST_ACT@
        if (action < 0 || !near(state.q[action], q[t]) || !near(state.q[expected], q[t]))
            return 1 + t;
        @prefix@_executed(&state, expected);""",
}
