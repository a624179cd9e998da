/* What training's kernels need beyond mast_vector.h: tiles of rows as lanes and back, and folding sums; included by
 * kernels.h. */
#include "../../../mast_runtime/native/mast_vector.h"

#include "panels.h"

#include <string.h>

enum { LANE_VECS = TRAIN_LANES / 16 };

/* -1, 0 or 1; magnitudes below 1e-38 give less. */
INLINE vec16 sign16(vec16 a) { return max16(set16(-1.0f), min16(set16(1.0f), mul16(a, set16(1e38f)))); }
INLINE vec16 sub16(vec16 a, vec16 b) { return fma16(b, set16(-1.0f), a); }

/* Lane by lane: a where kept > 0, else b; and a 2^n for whole n from -126 to 127. */
#if defined(MAST_V4)
INLINE vec16 select16(vec16 kept, vec16 a, vec16 b)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(kept, _mm512_setzero_ps(), _CMP_GT_OQ), b, a);
}
INLINE vec16 times_power16(vec16 a, vec16 n) { return _mm512_scalef_ps(a, n); }
#elif defined(MAST_V3)
INLINE vec8 select8(vec8 kept, vec8 a, vec8 b)
{
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(kept, _mm256_setzero_ps(), _CMP_GT_OQ));
}
INLINE vec8 power8(vec8 n)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
INLINE vec16 select16(vec16 kept, vec16 a, vec16 b)
{
    return (vec16){select8(kept.a, a.a, b.a), select8(kept.b, a.b, b.b)};
}
INLINE vec16 times_power16(vec16 a, vec16 n) { return mul16(a, (vec16){power8(n.a), power8(n.b)}); }
#else
INLINE vec16 select16(vec16 kept, vec16 a, vec16 b)
{
    float which[16], x[16], y[16];
    store16(which, kept), store16(x, a), store16(y, b);
    UNROLL for (int i = 0; i < 16; i++) x[i] = which[i] > 0.0f ? x[i] : y[i];
    return load16(x);
}
INLINE vec16 times_power16(vec16 a, vec16 n)
{
    float power[16];
    store16(power, n);
    UNROLL for (int i = 0; i < 16; i++)
    {
        const uint32_t bits = (uint32_t)((int32_t)power[i] + 127) << 23;
        memcpy(&power[i], &bits, sizeof bits);
    }
    return mul16(a, load16(power));
}
#endif

/* to [features][lane] from rows at from + offset[lane], the first `lanes` lanes, 16 or TRAIN_LANES; those `ahead` of
 * them, wanted next, are fetched meanwhile. */
static void to_lanes(const float *from, const ptrdiff_t offset[TRAIN_LANES], ptrdiff_t ahead, int32_t features,
                     float *to, int32_t lanes)
{
    for (int32_t f = 0; f < features; f += TURN) {
        const int32_t n = at_most(features - f, TURN);
        for (int32_t lane = 0; lane < lanes; lane += TURN) {
            turn_row row[TURN];
            UNROLL for (int i = 0; i < TURN; i++) row[i] = load_some(from + offset[lane + i] + f, n);
            UNROLL for (int i = 0; i < TURN; i++) __builtin_prefetch(from + ahead + offset[lane + i] + f, 0, 2);
            turn(row);
            UNROLL for (int i = 0; i < TURN; i++)
                if (i < n)
                    store_some(to + (size_t)(f + i) * TRAIN_LANES + lane, row[i], TURN);
        }
    }
}

/* The way back, for the first `lanes` lanes. */
static void from_lanes(const float *from, int32_t features, float *to, const ptrdiff_t offset[TRAIN_LANES],
                       int32_t lanes)
{
    for (int32_t f = 0; f < features; f += TURN) {
        const int32_t n = at_most(features - f, TURN);
        for (int32_t lane = 0; lane < lanes; lane += TURN) {
            turn_row row[TURN];
            UNROLL for (int i = 0; i < TURN; i++)
                row[i] = load_some(from + (size_t)(f + at_most(i, n - 1)) * TRAIN_LANES + lane, TURN);
            turn(row);
            UNROLL for (int i = 0; i < TURN; i++)
                if (lane + i < lanes)
                    store_some(to + offset[lane + i] + f, row[i], n);
        }
    }
}

/* Sixteen partial sums added to four. */
#if defined(MAST_V3) || defined(MAST_V4)
INLINE void add_folded(float *sum, vec16 a)
{
#if defined(MAST_V4)
    const vec8 b = add8(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
#else
    const vec8 b = add8(a.a, a.b);
#endif
    const __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    _mm_storeu_ps(sum, _mm_add_ps(_mm_loadu_ps(sum), c));
}
#else
INLINE void add_folded(float *sum, vec16 a)
{
    store4(sum, add4(load4(sum), add4(add4(a.a.a, a.a.b), add4(a.b.a, a.b.b))));
}
#endif
