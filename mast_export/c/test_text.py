"""Programs that try a policy in C: the host's test and its Makefile, and the self-test of a target.

The words for an action are in choice_text and bounded_text.
"""

TEST = """\
/* The recorded episode through the policy: `make test`. With an argument it prints every step's @ACTION_IS@, then
 * @PRINTED_ARE@ as the bits of their numbers, and checks nothing. */
#include "@prefix@.h"
#include "@prefix@_trace.h"

#include <stdio.h>
#include <string.h>

enum { STEPS = @PREFIX@_TRACE_STEPS, OBS = @PREFIX@_OBS, ACTIONS = @PREFIX@_ACTIONS@TEST_OUTPUTS@ };

static int failures;

static void expect(int holds, const char *what, int step)
{
    if (!holds) {
        printf("step %d: %s\\n", step, what);
        failures++;
    }
}

static unsigned long bits_of(@Q_TYPE@ value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

@ACTION_BITS@
static void print_state(const @prefix@_state *state)
{
    for (int a = 0; a < @OUTPUTS@; a++)
        printf(" %08lx", bits_of(state->q[a]));
@PRINT_HIDDEN@    printf("\\n");
}

/* NaN is no difference that is allowed. */
static int near(double value, double expected, double tolerance)
{
    const double difference = value > expected ? value - expected : expected - value;
    return difference <= tolerance;
}

static int near_q(const @Q_TYPE@ *q, const @Q_TYPE@ *expected)
{
    for (int a = 0; a < @OUTPUTS@; a++)
        if (!near((double)q[a], (double)expected[a], @PREFIX@_TRACE_Q_TOLERANCE))
            return 0;
    return 1;
}

@NEAR_HIDDEN@static int same(const @prefix@_state *a, const @prefix@_state *b)
{
    return @SAME_HIDDEN@!memcmp(a->q, b->q, sizeof a->q) &&
           @SAME_LAST@;
}

/* What must be refused leaves the state as it was. */
static void check_refusals(@prefix@_state *state)
{
    static const uint32_t bad[] = {0x7fc00000u, 0x7f800000u, 0xff800000u};
@NONE_AVAILABLE@    const @prefix@_state before = *state;
@ANY_ACTION@    for (unsigned i = 0; i < 3u * OBS; i++) {
        float obs[OBS];
        memcpy(obs, @prefix@_trace_obs[0], sizeof obs);
        memcpy(obs + i / 3, bad + i % 3, sizeof *obs);
        const int refusal = @prefix@_act(state, obs, @ACT_ANY@);
        expect(refusal == @PREFIX@_OBS_NOT_FINITE, "accepts an observation that is not finite", 0);
    }
@REFUSED@
}

int main(int argc, char **argv)
{
    (void)argv;
    @prefix@_state state;
    @prefix@_reset(&state);
    for (int t = 0; t < STEPS; t++) {
        const float *const obs = @prefix@_trace_obs[t];
        const @Q_TYPE@ *const q = @prefix@_trace_q[t];
@TRACED@
        if (argc > 1) {
            @PRINTED@;
            print_state(&state);
            continue;
        }
@CHECKED@
        expect(near_q(state.q, q), "q differs", t);
@AFTER_ACT@    }
    if (argc > 1)
        return 0;
@CHECK_HIDDEN@    check_refusals(&state);
#ifdef @PREFIX@_SELFTEST
    expect(@prefix@_selftest() == 0, "the self-test fails", 0);
#endif
    printf("%d steps: %s\\n", STEPS, failures ? "FAILED" : "the actions and values of the runtime");
    return failures != 0;
}
"""

MAKEFILE = """\
# make test   the recorded episode through the policy, on this machine
# make bits   the same with every bit printed; with CFLAGS="-O2 -ffp-contract=off" they are equal on every IEEE machine

CC ?= cc
CFLAGS ?= -O2 -Wall -Wextra

.PHONY: test bits clean

test: @prefix@_test
	./@prefix@_test

bits: @prefix@_test
	./@prefix@_test bits

@prefix@_test: @SOURCES@ @HEADERS@
	$(CC) -std=c99 $(CFLAGS) @INCLUDES@ -D@PREFIX@_SELFTEST -o $@ @SOURCES@

clean:
	rm -f @prefix@_test
"""

SELFTEST = """\
/* Recorded steps on the target itself: compile with -D@PREFIX@_SELFTEST and call @prefix@_selftest. */
#include "@prefix@.h"

#ifdef @PREFIX@_SELFTEST

#include <stddef.h>

enum { STEPS = @SELFTEST_STEPS@ };

@SELFTEST_TABLES@
static int near(@Q_TYPE@ value, @Q_TYPE@ expected)
{
    const @Q_TYPE@ tolerance = @SELFTEST_TOLERANCE@;
    return value <= expected + tolerance && value >= expected - tolerance;
}

int @prefix@_selftest(void)
{
    @prefix@_state state;
    @prefix@_reset(&state);
    for (int t = 0; t < STEPS; t++) {
@SELFTEST_STEP@
    }
    return 0;
}

#endif
"""

SELFTEST_FLOAT = """\
        float values[@PREFIX@_OBS];
        for (int i = 0; i < @PREFIX@_OBS; i++)
            values[i] = (float)obs[t][i] * @SELFTEST_SCALE@;
        const int @RESULT@ = @prefix@_act(&state, values, @ACT_GIVEN@);"""

MEMORY = {
    "gru": {
        "PRINTED_ARE": "q and the recurrent state",
        "PRINT_HIDDEN": """\
    for (int i = 0; i < @PREFIX@_HIDDEN; i++)
        printf(" %08lx", bits_of(state->hidden[i]));
""",
        "NEAR_HIDDEN": """\
static int near_hidden(const @HIDDEN_TYPE@ *hidden, const @HIDDEN_TYPE@ *expected)
{
    for (int i = 0; i < @PREFIX@_HIDDEN; i++)
        if (!near((double)hidden[i], (double)expected[i], @PREFIX@_TRACE_HIDDEN_TOLERANCE))
            return 0;
    return 1;
}

""",
        "SAME_HIDDEN": "!memcmp(a->hidden, b->hidden, sizeof a->hidden) && ",
        "CHECK_HIDDEN": """\
    expect(near_hidden(state.hidden, @prefix@_trace_hidden), "the recurrent state differs", STEPS - 1);
""",
    },
    "mlp": {"PRINTED_ARE": "q", "PRINT_HIDDEN": "", "NEAR_HIDDEN": "", "SAME_HIDDEN": "", "CHECK_HIDDEN": ""},
}
"""Architecture -> what the host's test does about the recurrent state."""
