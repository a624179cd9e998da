"""The code of a policy in float (mast_export.c.source fills it in): scalar, no libc. See text for its header."""

ACTIVATIONS = """\
typedef union {
    float value;
    uint32_t bits;
} float_bits;

/* By its bits, so that no compiler option can assume the answer. */
static int finite_value(float value)
{
    const float_bits f = {value};
    return (f.bits & 0x7f800000u) != 0x7f800000u;
}

static int all_finite(const float *values, int size)
{
    for (int i = 0; i < size; i++)
        if (!finite_value(values[i]))
            return 0;
    return 1;
}

/* x within +-limit; NaN stays NaN. */
static float clamp(float x, float limit)
{
    return x > limit ? limit : x < -limit ? -limit : x;
}

/* Rational fits, off by less than 6e-7 (tanh) and 4e-7 (sigmoid). */
static float tanh_fit(float x)
{
    x = clamp(x, 7.9f);
    const float u = x * x;
    const float above = ((1.141467965e-05f * u + 2.948511858e-03f) * u + 1.292268634e-01f) * u + 9.999994040e-01f;
    const float below =
        (((2.457241237e-07f * u + 2.383954416e-04f) * u + 2.380351350e-02f) * u + 4.625580609e-01f) * u + 1.0f;
    return x * above / below;
}

static float sigmoid_fit(float x)
{
    x = clamp(x, 15.8f);
    const float u = x * x;
    const float above = ((4.458859237e-08f * u + 4.607049777e-05f) * u + 8.076678962e-03f) * u + 2.499998510e-01f;
    const float below =
        (((9.598598583e-10f * u + 3.724928774e-06f) * u + 1.487719594e-03f) * u + 1.156395152e-01f) * u + 1.0f;
    return x * above / below + 0.5f;
}
"""

HALF = """\
/* IEEE half precision to float, exactly. */
static float from_half(uint16_t half)
{
    const uint32_t h = half;
    float_bits f;
    f.bits = (h & 0x8000u) << 16 | (h & 0x7fffu) << 13;
    return f.value * 5.192296858534828e+33f; /* 2^112, the difference of the exponents' biases */
}
"""

ACT = """\
static void copy(float *to, const float *from, int size)
{
    for (int i = 0; i < size; i++)
        to[i] = from[i];
}

/* gates: n's input part, r, z, n's recurrent part. The new recurrent state takes the first one's place. */
static void gru(float *gates, const float *hidden)
{
    for (int i = 0; i < HIDDEN; i++) {
        const float r = sigmoid_fit(gates[HIDDEN + i]), z = sigmoid_fit(gates[2 * HIDDEN + i]);
        const float n = tanh_fit(gates[i] + r * gates[3 * HIDDEN + i]);
        gates[i] = n + z * (hidden[i] - n);
    }
}

void @prefix@_reset(@prefix@_state *state)
{
    for (int i = 0; i < HIDDEN; i++)
        state->hidden[i] = 0.0f;
    for (int a = 0; a < ACTIONS; a++)
        state->q[a] = 0.0f;
    state->last_action = -1;
}

int @prefix@_act(@prefix@_state *state, const float *obs, const uint8_t *avail)
{
    float x[INPUTS], y[@Y_SIZE@], gates[@GATES_SIZE@], q[@Q_SIZE@];

    for (int i = 0; i < OBS; i++) {
        if (!finite_value(obs[i]))
            return @PREFIX@_OBS_NOT_FINITE;
        x[i] = obs[i];
    }
@LAST_ACTION@
    copy(y, fc1_bias, @Y_SIZE@);
    @FC1_CALL@
    if (!all_finite(y, FC1))
        return @PREFIX@_OVERFLOW;
    for (int i = 0; i < FC1; i++)
        y[i] = y[i] > 0.0f ? y[i] : 0.0f;

    copy(gates, gru_bias, @GATES_SIZE@);
    @WEIGHT_IH_CALL@
    @WEIGHT_HH_CALL@
    gru(gates, state->hidden);

    copy(q, fc2_bias, @Q_SIZE@);
    @FC2_CALL@
    if (!all_finite(gates, HIDDEN) || !all_finite(q, ACTIONS))
        return @PREFIX@_OVERFLOW;

    const int action = best_action(q, avail);
    if (action >= 0) {
        copy(state->hidden, gates, HIDDEN);
        copy(state->q, q, ACTIONS);
        state->last_action = action;
    }
    return action;
}
"""

LAST_ACTION = """\
    for (int a = 0; a < ACTIONS; a++)
        x[OBS + a] = a == state->last_action ? 1.0f : 0.0f;
"""
