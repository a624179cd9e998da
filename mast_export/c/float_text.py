"""The code of a policy in float (mast_export.c.source fills it in): scalar, no libc. See text for its header."""

FINITE = """\
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
"""

CLAMP = """\
/* x within +-limit; NaN stays NaN. */
static float clamp(float x, float limit)
{
    return x > limit ? limit : x < -limit ? -limit : x;
}
"""

TANH = """\
/* A rational fit, off by less than 6e-7 and by less than 9e-7 of the value. */
static float tanh_fit(float x)
{
    x = clamp(x, 7.9f);
    const float u = x * x;
    const float above = ((1.141467965e-05f * u + 2.948511858e-03f) * u + 1.292268634e-01f) * u + 9.999994040e-01f;
    const float below =
        (((2.457241237e-07f * u + 2.383954416e-04f) * u + 2.380351350e-02f) * u + 4.625580609e-01f) * u + 1.0f;
    return x * above / below;
}
"""

SIGMOID = """\
/* Likewise, off by less than 4e-7. */
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

COPY = """\
static void copy(float *to, const float *from, int size)
{
    for (int i = 0; i < size; i++)
        to[i] = from[i];
}
"""

GRU = """\
/* gates: n's input part, r, z, n's recurrent part. The new recurrent state takes the first one's place. */
static void gru(float *gates, const float *hidden)
{
    for (int i = 0; i < HIDDEN; i++) {
        const float r = sigmoid_fit(gates[HIDDEN + i]), z = sigmoid_fit(gates[2 * HIDDEN + i]);
        const float n = tanh_fit(gates[i] + r * gates[3 * HIDDEN + i]);
        gates[i] = n + z * (hidden[i] - n);
    }
}
"""

ACT = """\
void @prefix@_reset(@prefix@_state *state)
{
@RESET_HIDDEN@    for (int a = 0; a < @OUTPUTS@; a++)
        state->q[a] = 0.0f;
@RESET_LAST@
}

int @prefix@_act(@prefix@_state *state, const float *obs, @ACT_TO@)
{
    float x[INPUTS], y[@Y_SIZE@], @GATES@[@GATES_SIZE@], q[@Q_SIZE@];

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

@MIDDLE@
    copy(q, fc2_bias, @Q_SIZE@);
    @FC2_CALL@
    if (@MIDDLE_FAULT@!all_finite(q, @OUTPUTS@))
        return @PREFIX@_OVERFLOW;

@DECISION@
}
"""

MEMORY = {
    "gru": {
        "RESET_HIDDEN": """\
    for (int i = 0; i < HIDDEN; i++)
        state->hidden[i] = 0.0f;
""",
        "GATES": "gates",
        "MIDDLE": """\
    copy(gates, gru_bias, @GATES_SIZE@);
    @WEIGHT_IH_CALL@
    @WEIGHT_HH_CALL@
    gru(gates, state->hidden);
""",
        "MIDDLE_FAULT": "!all_finite(gates, HIDDEN) || ",
        "KEEP_HIDDEN": "    copy(state->hidden, gates, HIDDEN);\n",
    },
    "mlp": {
        "RESET_HIDDEN": "",
        "GATES": "z",
        "MIDDLE": """\
    copy(z, mid_bias, @GATES_SIZE@);
    @MID_CALL@
    if (!all_finite(z, HIDDEN))
        return @PREFIX@_OVERFLOW;
    for (int i = 0; i < HIDDEN; i++)
        z[i] = z[i] > 0.0f ? z[i] : 0.0f;
""",
        "MIDDLE_FAULT": "",
        "KEEP_HIDDEN": "",
    },
}
"""Architecture -> its part of the code."""
