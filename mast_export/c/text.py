"""What every policy in C shares: its header, the start of its code (mast_export.c.source fills them in).

C99 and C++17, no libc. Names between @ signs are replaced; the words for a memory are here, those for an action in
choice_text and bounded_text.
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
#define @PREFIX@_ACTIONS @ACTIONS@@ACTIONS_ARE@
@OUTPUTS_DEFINE@@HIDDEN_DEFINE@@BOUNDS@
/* One agent's memory. */
typedef struct {
@HIDDEN_FIELD@    @Q_TYPE@ q[@Q_COUNT@]; /* @Q_IS@ of the last decision@Q_UNIT@ */
    @LAST_FIELD@
} @prefix@_state;

/* What is returned by a function that refuses. The state is as it was. */
enum {
    @PREFIX@_OBS_NOT_FINITE = -1, /* an observation is NaN or infinite */
    @REFUSAL@
    @PREFIX@_OVERFLOW = -3        /* @OVERFLOW@ */
};

/* Forget the episode: before the first decision, and at each new episode. */
void @prefix@_reset(@prefix@_state *state);

@ACT_API@
@FIXED_API@
/* Another action was carried out than the last decision's, say by a safety layer: the next decision is told of it.
@EXECUTED_API@

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

enum { OBS = @PREFIX@_OBS, ACTIONS = @PREFIX@_ACTIONS, HIDDEN = @HIDDEN@, INPUTS = @INPUTS@, FC1 = @FC1@ };
@SHIFTS@"""

OUTPUTS = {
    "OUTPUTS_DEFINE": "",
    "Q_COUNT": "@PREFIX@_ACTIONS",
    "OUTPUTS": "ACTIONS",
    "TEST_OUTPUTS": "",
}
"""Where the network has an output for each action or component."""

MEMORY = {
    "gru": {
        "HIDDEN_DEFINE": "#define @PREFIX@_HIDDEN @HIDDEN@\n",
        "HIDDEN_FIELD": "    @HIDDEN_TYPE@ hidden[@PREFIX@_HIDDEN]; /* recurrent state@HIDDEN_UNIT@ */\n",
    },
    "mlp": {"HIDDEN_DEFINE": "", "HIDDEN_FIELD": ""},
}
"""Architecture -> what the header says of the recurrent state."""
