/* What training's kernels need beyond mast_vector.h: tiles of rows as lanes and back, and folding sums. */
#include "../../mast_runtime/native/mast_vector.h"

#include "train.h"

enum { LANE_VECS = TRAIN_LANES / 16 };

/* -1, 0 or 1; magnitudes below 1e-38 give less. */
INLINE vec16 sign16(vec16 a) { return max16(set16(-1.0f), min16(set16(1.0f), mul16(a, set16(1e38f)))); }
INLINE vec16 sub16(vec16 a, vec16 b) { return fma16(b, set16(-1.0f), a); }

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
