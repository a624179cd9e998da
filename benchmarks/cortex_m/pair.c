/* Two policies in one image, in turn, each on its recorded episode: 0 where both take the actions of the runtime.
 *
 * Also for a host: everything but the two policies is C99.
 */
#include "left_arm.h"
#include "left_arm_trace.h"
#include "right_arm.h"
#include "right_arm_trace.h"

int main(void)
{
    int failures = 0;
    left_arm_state left;
    right_arm_state right;
    left_arm_reset(&left);
    right_arm_reset(&right);
    for (int t = 0; t < LEFT_ARM_TRACE_STEPS && t < RIGHT_ARM_TRACE_STEPS; t++) {
        left_arm_executed(&left, left_arm_trace_last_action[t]);
        right_arm_executed(&right, right_arm_trace_last_action[t]);
        failures += left_arm_act(&left, left_arm_trace_obs[t], left_arm_trace_avail[t]) != left_arm_trace_action[t];
        failures += right_arm_act(&right, right_arm_trace_obs[t], right_arm_trace_avail[t]) != right_arm_trace_action[t];
    }
    failures += left_arm_selftest() != 0;
    failures += right_arm_selftest() != 0;
    return failures != 0;
}
