"""What every policy in C shares: its header, the choice of an action (mast_export.c.source fills them in).

C99 and C++17, no libc. Names between @ signs are replaced.
"""

HEADER = """\
/* The policy of @AGENT@. Made by mast export; docs/c.md of mast-marl describes it.
 *
 * @SUMMARY@
 * Constant tables @TABLES@ bytes, a state @STATE@ bytes, @STACK@ bytes of local arrays in @prefix@_act.
 */
#ifndef @PREFIX@_H
#define @PREFIX@_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Which policy this is: of its .mast file (SHA-256), what its maker calls it, and what wrote it. */
#define @PREFIX@_DIGEST "@DIGEST@"
#define @PREFIX@_VERSION "@VERSION@"
#define @PREFIX@_PRODUCER "@PRODUCER@"

#define @PREFIX@_OBS @OBS@
#define @PREFIX@_ACTIONS @ACTIONS@
#define @PREFIX@_HIDDEN @HIDDEN@

/* One agent's memory. */
typedef struct {
    @HIDDEN_TYPE@ hidden[@PREFIX@_HIDDEN]; /* recurrent state@HIDDEN_UNIT@ */
    @Q_TYPE@ q[@PREFIX@_ACTIONS]; /* action values of the last decision@Q_UNIT@ */
    int last_action; /* carried out last, -1: none yet */
} @prefix@_state;

/* What @prefix@_act returns when it refuses. The state is as it was. */
enum {
    @PREFIX@_OBS_NOT_FINITE = -1, /* an observation is NaN or infinite */
    @PREFIX@_NO_ACTION = -2,      /* no action is available */
    @PREFIX@_OVERFLOW = -3        /* @OVERFLOW@ */
};

/* Forget the episode: before the first decision, and at each new episode. */
void @prefix@_reset(@prefix@_state *state);

/* The available action with the largest value, the lowest of equals, or one of the refusals above.
 * obs has @PREFIX@_OBS values; avail has @PREFIX@_ACTIONS flags (not 0: available), or is NULL: all are. */
int @prefix@_act(@prefix@_state *state, const float *obs, const uint8_t *avail);
@FIXED_API@
/* Another action was carried out than the last decision's, say by a safety layer: the next decision is told of it.
 * An action out of range stands for none. */
void @prefix@_executed(@prefix@_state *state, int action);

#ifdef @PREFIX@_SELFTEST
/* @SELFTEST_STEPS@ recorded steps, compiled in with -D@PREFIX@_SELFTEST: 0, or 1 + the first step that goes wrong. */
int @prefix@_selftest(void);
#endif

#ifdef __cplusplus
}
#endif

#endif
"""

SOURCE_START = """\
/* The policy of @AGENT@. Made by mast export: change the training run, not this file. */
#include "@prefix@.h"

#include <stddef.h>

enum { OBS = @PREFIX@_OBS, ACTIONS = @PREFIX@_ACTIONS, HIDDEN = @PREFIX@_HIDDEN, INPUTS = @INPUTS@, FC1 = @FC1@ };
@SHIFTS@"""

CHOICE = """\
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
