/* What training's kernels need beyond mast_vector.h: turning tiles of rows into lanes, and folding sums. */
#include "../../mast_runtime/native/mast_vector.h"

#include "train.h"

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

/* TURN rows of TURN floats, transposed in registers. Rotating the bits of (row, column) by one, as interleaving the two
 * halves does, log2(TURN) times exchanges row and column. load_some and store_some touch only the first n floats. */
#if defined(MAST_V4)
enum { TURN = 16, TURN_BITS = 4 };
typedef __m512 turn_row;
INLINE turn_row load_some(const float *p, int32_t n)
{
    return _mm512_maskz_loadu_ps((__mmask16)(n < TURN ? (1u << n) - 1u : 0xffffu), p);
}
INLINE void store_some(float *p, turn_row a, int32_t n)
{
    _mm512_mask_storeu_ps(p, (__mmask16)(n < TURN ? (1u << n) - 1u : 0xffffu), a);
}
INLINE turn_row interleave_low(turn_row a, turn_row b)
{
    return _mm512_permutex2var_ps(
        a, _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23), b);
}
INLINE turn_row interleave_high(turn_row a, turn_row b)
{
    return _mm512_permutex2var_ps(
        a, _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31), b);
}
#elif defined(MAST_V3)
enum { TURN = 8, TURN_BITS = 3 };
typedef __m256 turn_row;
INLINE __m256i first_lanes(int32_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE turn_row load_some(const float *p, int32_t n) { return _mm256_maskload_ps(p, first_lanes(n)); }
INLINE void store_some(float *p, turn_row a, int32_t n) { _mm256_maskstore_ps(p, first_lanes(n), a); }
INLINE turn_row interleave_low(turn_row a, turn_row b)
{
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x20);
}
INLINE turn_row interleave_high(turn_row a, turn_row b)
{
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x31);
}
#else
enum { TURN = 1, TURN_BITS = 0 };
typedef float turn_row;
INLINE turn_row load_some(const float *p, int32_t n) { return n > 0 ? *p : 0.0f; }
INLINE void store_some(float *p, turn_row a, int32_t n)
{
    if (n > 0)
        *p = a;
}
INLINE turn_row interleave_low(turn_row a, turn_row b) { return (void)b, a; }
INLINE turn_row interleave_high(turn_row a, turn_row b) { return (void)a, b; }
#endif

INLINE void turn(turn_row row[TURN])
{
    UNROLL for (int bit = 0; bit < TURN_BITS; bit++)
    {
        turn_row old[TURN];
        UNROLL for (int i = 0; i < TURN; i++) old[i] = row[i];
        UNROLL for (int i = 0; i < TURN / 2; i++)
        {
            row[2 * i] = interleave_low(old[i], old[i + TURN / 2]);
            row[2 * i + 1] = interleave_high(old[i], old[i + TURN / 2]);
        }
    }
}

INLINE int32_t at_most(int32_t n, int32_t limit) { return n < limit ? n : limit; }

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
