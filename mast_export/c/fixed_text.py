"""The code of a policy in fixed point (mast_export.c.fixed_source fills it in): no float in the step, no libc.

mast_export.fixed says what the numbers are, and computes the same bits. See text for the header.
"""

API = """
#define @PREFIX@_FIXED_POINT 1
#define @PREFIX@_Q_UNIT @UNIT@f /* q in reals: q times this; the step does not need it */

/* The same for an observation of integers: obs[i] * 2^OBS_BITS(i), rounded, within +-32767. A value of a larger size
 * than that holds is taken as the largest. @prefix@_act converts its floats so, without floating-point arithmetic. */
@OBS_BITS@
@INTEGER_API@
"""

OBS_BITS = """\
extern const int8_t @prefix@_obs_bits[@PREFIX@_OBS];
#define @PREFIX@_OBS_BITS(i) (@prefix@_obs_bits[i])"""

CODE = """\
/* Negative numbers are shifted with their sign by every compiler for such chips; this stops one that does not. */
typedef char shifts_keep_the_sign[((int32_t)-5 >> 1) == -3 ? 1 : -1];

/* Where the step is in the network's tables, which it reads once from start to end. */
typedef struct {
    const int16_t *connection;
    const @ROW_TYPE@ *row;
} cursor;

static int32_t clamp(int32_t x, int32_t limit)
{
    return x > limit ? limit : x < -limit ? -limit : x;
}

/* x / 2^bits, to the nearest. */
static int32_t scaled(int32_t x, unsigned bits)
{
    return (x + (int32_t)(((uint32_t)1 << bits) >> 1)) >> bits;
}

/* Its positive part. */
static int16_t positive(int32_t x)
{
    return (int16_t)(x > 0 ? clamp(x, 32767) : 0);
}

/* A row of weights times x. `row`: how many connections, and 2 bits of shift beyond `shift`. A connection: the weight,
 * and 6 bits of distance to its input from the one before. */
static int32_t sum_row(const int16_t *connection, const int16_t *x, unsigned row, unsigned shift)
{
    int32_t sum = 0;
    for (unsigned n = row >> 2; n > 0u; n--) {
        const int32_t packed = *connection++;
        x += packed & 63;
        sum += (packed >> 6) * *x;
    }
    return sum >> (shift + (row & 3u));
}

static inline int32_t next_row(cursor *at, const int16_t *x, unsigned shift)
{
    const unsigned row = *at->row++;
    const int16_t *const connection = at->connection;
    at->connection += row >> 2;
    return sum_row(connection, x, row, shift);
}
"""

TANH = """\
/* tanh(u / 2^13) * 2^15, between the table's points a straight line. */
static int32_t tanh_fixed(int32_t u)
{
    const int32_t at = clamp(u, 32767) + 32768;
    const int16_t *const point = tanh_table + (at >> 9);
    return point[0] + (((point[1] - point[0]) * (at & 511)) >> 9);
}
"""

GRU = """\
/* sigmoid(x / 2^12) * 2^15 */
static int32_t sigmoid_fixed(int32_t x)
{
    return (32768 + tanh_fixed(x)) >> 1;
}

/* Recurrent values times 2^12, as rows read them, are in x; those in `hidden`, times 2^15, become the new ones. */
static void gru(cursor *at, const int16_t *x, int16_t *hidden)
{
    const @BIAS_TYPE@ *bias = biases + FC1;
    for (int i = 0; i < HIDDEN; i++, bias += 4) {
        const int32_t r = sigmoid_fixed(next_row(at, x, GATES_SHIFT) + bias[0]);
        const int32_t z = sigmoid_fixed(next_row(at, x, GATES_SHIFT) + bias[1]);
        const int32_t from_input = next_row(at, x, GATES_SHIFT) + bias[2];
        const int32_t from_hidden = clamp(next_row(at, x + FC1, GATES_SHIFT) + bias[3], 65535);
        const int32_t n = tanh_fixed(2 * clamp(from_input + scaled(r * from_hidden, 15), 16384));
        hidden[i] = (int16_t)(n + scaled(z * (hidden[i] - n), 15));
    }
}

/* Rows read recurrent values as multiples of 2^-12. */
static void read_hidden(const int16_t *hidden, int16_t *x)
{
    for (int i = 0; i < HIDDEN; i++) {
        x[i] = (int16_t)scaled(hidden[i], 3);
    }
}
"""

DECIDE = """\
/* x: the observation, and room for the last action. */
static int decide(@prefix@_state *state, int16_t *x@DECIDE_TO@)
{
    cursor at = {connections, rows};
    int16_t y[FC1 + HIDDEN];

@AVAILABLE@@LAST_ACTION@
    for (int i = 0; i < FC1; i++) {
        y[i] = positive(next_row(&at, x, FC1_SHIFT) + biases[i]);
    }
@MIDDLE@
    for (int a = 0; a < ACTIONS; a++) {
        state->q[a] = next_row(&at, y + FC1, Q_SHIFT) + q_biases[a];
    }
@DECISION@
}

/* value * 2^bits, rounded, halves away from zero, within +-32767, from the bits of an IEEE float; 0: not finite. */
static int to_fixed(float value, int bits, int16_t *to)
{
    union {
        float value;
        uint32_t bits;
    } f;
    f.value = value;
    const uint32_t exponent = f.bits >> 23 & 0xffu, mantissa = (f.bits & 0x7fffffu) | 0x800000u;
    const int shift = 150 - bits - (int)exponent;
    int32_t size;
    if (shift >= 9 && shift <= 24) {
        size = scaled((int32_t)mantissa, (unsigned)shift);
        size -= size >> 15; /* 32768 is too large */
    } else if (shift > 24) {
        size = 0;
    } else {
        if (exponent == 0xffu) {
            return 0;
        }
        size = 32767;
    }
    *to = (int16_t)(f.bits >> 31 ? -size : size);
    return 1;
}

void @prefix@_reset(@prefix@_state *state)
{
@RESET_HIDDEN@    for (int a = 0; a < ACTIONS; a++) {
        state->q[a] = 0;
    }
@RESET_LAST@
}

@ACT@"""

OBSERVATION = {
    "CONVERT_OBS": """\
    for (int i = 0; i < OBS; i++) {
        if (!to_fixed(obs[i], @PREFIX@_OBS_BITS(i), &x[i])) {
            return @PREFIX@_OBS_NOT_FINITE;
        }
    }""",
    "COPY_OBS": """\
    for (int i = 0; i < OBS; i++) {
        x[i] = obs[i];
    }""",
}

MEMORY = {
    "gru": {
        "RESET_HIDDEN": """\
    for (int i = 0; i < HIDDEN; i++) {
        state->hidden[i] = 0;
    }
""",
        "MIDDLE": """\
    read_hidden(state->hidden, y + FC1);
    gru(&at, y, state->hidden);
    read_hidden(state->hidden, y + FC1);""",
    },
    "mlp": {
        "RESET_HIDDEN": "",
        "MIDDLE": """\
    for (int i = 0; i < HIDDEN; i++) {
        y[FC1 + i] = positive(next_row(&at, y, MID_SHIFT) + biases[FC1 + i]);
    }""",
    },
}
"""Architecture -> its part of the code."""
