/* What a page calls of one agent's exported policy. No libc: the page writes into obs and avail, and reads q, hidden
 * and, of continuous actions, the action and what is remembered of it. */
#include "policy.h"

#define EXPORT(name) __attribute__((export_name(#name))) name

static policy_state state;
static float obs[POLICY_OBS];
#ifdef POLICY_CONTINUOUS
static float given[POLICY_ACTIONS];
float *EXPORT(action_at)(void) { return given; }
float *EXPORT(last_at)(void) { return state.last_action; }
#else
static uint8_t given[POLICY_ACTIONS];
uint8_t *EXPORT(avail_at)(void) { return given; }
#endif
#ifdef POLICY_HIDDEN
float *EXPORT(hidden_at)(void) { return state.hidden; }
int EXPORT(hidden_size)(void) { return POLICY_HIDDEN; }
#endif

float *EXPORT(obs_at)(void) { return obs; }
float *EXPORT(q_at)(void) { return state.q; }
int EXPORT(obs_size)(void) { return POLICY_OBS; }
int EXPORT(action_size)(void) { return POLICY_ACTIONS; }
int EXPORT(output_size)(void) { return sizeof state.q / sizeof *state.q; }
void EXPORT(reset)(void) { policy_reset(&state); }

/* Never inlined: a browser's optimising compiler replaces a function between its calls, not within a running loop. */
static __attribute__((noinline)) int decide(void) { return policy_act(&state, obs, given); }

int EXPORT(act)(void) { return decide(); }

/* So many decisions on one observation, one after another, for the clock; the state is as before. */
int EXPORT(repeat)(int times)
{
    const policy_state before = state;
    int sum = 0;
    for (int i = 0; i < times; i++)
        sum += decide();
    state = before;
    return sum;
}
