/* Inputs outside the range that training saw, for one instruction set. Included by mast_forward.h.
 *
 * A decision marks the vectors in which an input is not within its range, on the way to the check that all are finite: that
 * one is only made where something is marked. What is marked is counted one by one, once the decision stands.
 */

/* 16 marks: not within low and high, or NaN. */
#if defined(MAST_V4)
typedef __mmask16 marks16;
INLINE marks16 unmarked(void) { return 0; }
INLINE marks16 mark16(marks16 marks, vec16 v, vec16 low, vec16 high)
{
    return marks | _mm512_cmp_ps_mask(v, low, _CMP_NGE_UQ) | _mm512_cmp_ps_mask(v, high, _CMP_NLE_UQ);
}
INLINE uint32_t marked(marks16 marks) { return marks; }
#elif defined(MAST_V3)
typedef vec16 marks16;
INLINE marks16 unmarked(void) { return set16(0.0f); }
INLINE vec8 mark8(vec8 marks, vec8 v, vec8 low, vec8 high)
{
    return _mm256_or_ps(marks, _mm256_or_ps(_mm256_cmp_ps(v, low, _CMP_NGE_UQ), _mm256_cmp_ps(v, high, _CMP_NLE_UQ)));
}
INLINE marks16 mark16(marks16 marks, vec16 v, vec16 low, vec16 high)
{
    return (marks16){mark8(marks.a, v.a, low.a, high.a), mark8(marks.b, v.b, low.b, high.b)};
}
INLINE uint32_t marked(marks16 marks)
{
    return (uint32_t)_mm256_movemask_ps(marks.a) | (uint32_t)_mm256_movemask_ps(marks.b) << 8;
}
#else
#if defined(MAST_NEON)
typedef uint32x4_t marks4;
INLINE marks4 mark4(marks4 marks, vec4 v, vec4 low, vec4 high)
{
    return vorrq_u32(marks, vmvnq_u32(vandq_u32(vcgeq_f32(v, low), vcleq_f32(v, high))));
}
INLINE void store_marks(uint32_t *to, marks4 marks) { vst1q_u32(to, marks); }
#else
typedef struct {
    uint32_t v[4];
} marks4;
INLINE marks4 mark4(marks4 marks, vec4 v, vec4 low, vec4 high)
{
    UNROLL for (int i = 0; i < 4; i++) marks.v[i] |= !(v.v[i] >= low.v[i]) | !(v.v[i] <= high.v[i]);
    return marks;
}
INLINE void store_marks(uint32_t *to, marks4 marks)
{
    UNROLL for (int i = 0; i < 4; i++) to[i] = marks.v[i];
}
#endif
typedef struct {
    marks4 a, b, c, d;
} marks16;
INLINE marks16 unmarked(void)
{
    marks16 none = {0};
    return none;
}
INLINE marks16 mark16(marks16 marks, vec16 v, vec16 low, vec16 high)
{
    return (marks16){mark4(marks.a, v.a.a, low.a.a, high.a.a), mark4(marks.b, v.a.b, low.a.b, high.a.b),
                     mark4(marks.c, v.b.a, low.b.a, high.b.a), mark4(marks.d, v.b.b, low.b.b, high.b.b)};
}
INLINE uint32_t marked(marks16 marks)
{
    uint32_t each[16], bits = 0;
    store_marks(each, marks.a), store_marks(each + 4, marks.b), store_marks(each + 8, marks.c), store_marks(each + 12, marks.d);
    UNROLL for (int i = 0; i < 16; i++) bits |= (uint32_t)(each[i] != 0) << i;
    return bits;
}
#endif

/* A bit for each of the inputs `first` to `first` + 15 that is marked. */
static uint32_t marked_from(const float *obs, const float *low, const float *high, uint32_t inputs, uint32_t first)
{
    if (inputs >= 16) {
        const uint32_t at = first + 16 <= inputs ? first : inputs - 16; /* the last ones, some of them again */
        return marked(mark16(unmarked(), load16(obs + at), load16(low + at), load16(high + at))) >> (first - at);
    }
    uint32_t bits = 0;
    for (uint32_t i = 0; i < inputs; i++)
        bits |= (uint32_t)(!(obs[i] >= low[i]) | !(obs[i] <= high[i])) << i;
    return bits;
}

/* Adds the marked ones to counts [inputs]; returns how many. */
static uint32_t count_outside(const float *obs, const float *low, const float *high, uint32_t inputs, uint64_t *counts)
{
    uint32_t found = 0;
    for (uint32_t first = 0; first < inputs; first += 16) {
        uint32_t bits = marked_from(obs, low, high, inputs, first);
        for (; bits; bits &= bits - 1u, found++)
            counts[first + (uint32_t)__builtin_ctz(bits)]++;
    }
    return found;
}

static int all_finite(const float *values, uint32_t size)
{
    const uint32_t whole = size & ~15u;
    vec16 poison = set16(0.0f);
    for (uint32_t i = 0; i < whole; i += 16)
        poison = poison16(poison, load16(values + i));
    for (uint32_t i = whole; i < size; i++)
        poison = poison16(poison, set16(values[i]));
    return !poisoned(poison);
}

/* obs into s->x, s->outside; 0 or a mast_fault. */
static int take_obs(const mast_network *n, mast_state *s, const float *obs)
{
    marks16 marks = unmarked();
    uint32_t i = 0;
    for (; i + 16 <= n->obs; i += 16) {
        const vec16 o = load16(obs + i);
        store16(s->x + i, o);
        marks = mark16(marks, o, load16(n->low + i), load16(n->high + i));
    }
    if (n->obs >= 16 && i < n->obs) { /* the last ones, some of them again */
        i = n->obs - 16;
        const vec16 o = load16(obs + i);
        store16(s->x + i, o);
        marks = mark16(marks, o, load16(n->low + i), load16(n->high + i));
    }
    for (; n->obs < 16 && i < n->obs; i++)
        s->x[i] = obs[i];
    s->outside = n->obs < 16 ? marked_from(obs, n->low, n->high, n->obs, 0) : marked(marks);
    return s->outside && !all_finite(obs, n->obs) ? MAST_OBS_NOT_FINITE : 0;
}

/* A bit for each lane in which one of the inputs `first` to `end` of x [input][lane] is marked. */
INLINE uint32_t marked_lanes(const mast_network *n, const float *x, uint32_t first, uint32_t end)
{
    enum { VECS = MAST_LANES / 16 };
    marks16 marks[VECS];
    UNROLL for (int v = 0; v < VECS; v++) marks[v] = unmarked();
    for (uint32_t i = first; i < end; i++) {
        const vec16 low = set16(n->low[i]), high = set16(n->high[i]);
        UNROLL for (int v = 0; v < VECS; v++)
            marks[v] = mark16(marks[v], load16(x + i * MAST_LANES + 16 * v), low, high);
    }
    uint32_t bits = 0;
    UNROLL for (int v = 0; v < VECS; v++) bits |= marked(marks[v]) << 16 * v;
    return bits;
}

/* The marked inputs of a tile's x [input][lane] as its hits; 0 or a mast_fault. */
static int check_lanes(const mast_network *n, const mast_tile *t, const float *x)
{
    enum { BLOCK = 8 }; /* where few inputs are marked, most blocks have none */
    const uint32_t used = t->lanes < MAST_LANES ? (1u << t->lanes) - 1u : ~0u;
    uint32_t hits = 0;
    int finite = 1;
    for (uint32_t first = 0; first < n->obs; first += BLOCK) {
        const uint32_t end = n->obs - first < BLOCK ? n->obs : first + BLOCK;
        if (!(marked_lanes(n, x, first, end) & used))
            continue;
        for (uint32_t i = first; i < end; i++) {
            const uint32_t lanes = marked_lanes(n, x, i, i + 1) & used;
            if (!lanes)
                continue;
            t->hit[hits++] = (mast_hit){i, lanes};
            finite &= all_finite(x + (size_t)i * MAST_LANES, MAST_LANES);
        }
    }
    *t->hits = hits;
    return finite ? 0 : MAST_OBS_NOT_FINITE;
}
