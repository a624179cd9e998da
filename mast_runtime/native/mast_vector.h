/* Vectors of 8 and 16 floats for one instruction set. Private to the kernels.
 *
 * Only types that the instruction set has: wider vector types are lowered very badly by some compilers, so a panel of 16
 * is two or four registers where registers are short.
 */
#include <stddef.h>
#include <stdint.h>

#if defined(__SANITIZE_ADDRESS__)
#define INLINE static __attribute__((noinline, unused)) /* inlined and instrumented, plain C compiles for minutes */
#else
#define INLINE static inline __attribute__((always_inline))
#endif
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#if defined(MAST_V4) || defined(MAST_V3)
#include <immintrin.h>
typedef __m256 vec8;
INLINE vec8 load8(const float *p) { return _mm256_loadu_ps(p); }
INLINE void store8(float *p, vec8 a) { _mm256_storeu_ps(p, a); }
INLINE vec8 set8(float a) { return _mm256_set1_ps(a); }
INLINE vec8 add8(vec8 a, vec8 b) { return _mm256_add_ps(a, b); }
INLINE vec8 mul8(vec8 a, vec8 b) { return _mm256_mul_ps(a, b); }
INLINE vec8 div8(vec8 a, vec8 b) { return _mm256_div_ps(a, b); }
INLINE vec8 fma8(vec8 a, vec8 b, vec8 c) { return _mm256_fmadd_ps(a, b, c); }
/* a NaN in the second argument comes through */
INLINE vec8 min8(vec8 a, vec8 b) { return _mm256_min_ps(a, b); }
INLINE vec8 max8(vec8 a, vec8 b) { return _mm256_max_ps(a, b); }
INLINE vec8 pick8(const float *x, const uint16_t *c)
{
    return _mm256_set_ps(x[c[7]], x[c[6]], x[c[5]], x[c[4]], x[c[3]], x[c[2]], x[c[1]], x[c[0]]);
}
#else
#if defined(__ARM_NEON) && defined(__aarch64__) && !defined(MAST_PLAIN)
#define MAST_NEON
#include <arm_neon.h>
typedef float32x4_t vec4;
INLINE vec4 load4(const float *p) { return vld1q_f32(p); }
INLINE void store4(float *p, vec4 a) { vst1q_f32(p, a); }
INLINE vec4 set4(float a) { return vdupq_n_f32(a); }
INLINE vec4 add4(vec4 a, vec4 b) { return vaddq_f32(a, b); }
INLINE vec4 mul4(vec4 a, vec4 b) { return vmulq_f32(a, b); }
INLINE vec4 div4(vec4 a, vec4 b) { return vdivq_f32(a, b); }
INLINE vec4 fma4(vec4 a, vec4 b, vec4 c) { return vfmaq_f32(c, a, b); }
INLINE vec4 min4(vec4 a, vec4 b) { return vminq_f32(a, b); }
INLINE vec4 max4(vec4 a, vec4 b) { return vmaxq_f32(a, b); }
INLINE vec4 pick4(const float *x, const uint16_t *c)
{
    vec4 v = vld1q_dup_f32(x + c[0]);
    v = vld1q_lane_f32(x + c[1], v, 1);
    v = vld1q_lane_f32(x + c[2], v, 2);
    return vld1q_lane_f32(x + c[3], v, 3);
}
#else
typedef struct {
    float v[4];
} vec4;
#define EACH4(result, value)                                                                                           \
    vec4 result;                                                                                                       \
    UNROLL for (int i = 0; i < 4; i++) result.v[i] = (value);                                                          \
    return result
INLINE vec4 load4(const float *p) { EACH4(y, p[i]); }
INLINE void store4(float *p, vec4 a)
{
    UNROLL for (int i = 0; i < 4; i++) p[i] = a.v[i];
}
INLINE vec4 set4(float a) { EACH4(y, a); }
INLINE vec4 add4(vec4 a, vec4 b) { EACH4(y, a.v[i] + b.v[i]); }
INLINE vec4 mul4(vec4 a, vec4 b) { EACH4(y, a.v[i] * b.v[i]); }
INLINE vec4 div4(vec4 a, vec4 b) { EACH4(y, a.v[i] / b.v[i]); }
INLINE vec4 fma4(vec4 a, vec4 b, vec4 c) { EACH4(y, a.v[i] * b.v[i] + c.v[i]); }
INLINE vec4 min4(vec4 a, vec4 b) { EACH4(y, a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
INLINE vec4 max4(vec4 a, vec4 b) { EACH4(y, a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
INLINE vec4 pick4(const float *x, const uint16_t *c) { EACH4(y, x[c[i]]); }
#endif
typedef struct {
    vec4 a, b;
} vec8;
INLINE vec8 load8(const float *p) { return (vec8){load4(p), load4(p + 4)}; }
INLINE void store8(float *p, vec8 a)
{
    store4(p, a.a);
    store4(p + 4, a.b);
}
INLINE vec8 set8(float a) { return (vec8){set4(a), set4(a)}; }
INLINE vec8 add8(vec8 a, vec8 b) { return (vec8){add4(a.a, b.a), add4(a.b, b.b)}; }
INLINE vec8 mul8(vec8 a, vec8 b) { return (vec8){mul4(a.a, b.a), mul4(a.b, b.b)}; }
INLINE vec8 div8(vec8 a, vec8 b) { return (vec8){div4(a.a, b.a), div4(a.b, b.b)}; }
INLINE vec8 fma8(vec8 a, vec8 b, vec8 c) { return (vec8){fma4(a.a, b.a, c.a), fma4(a.b, b.b, c.b)}; }
INLINE vec8 min8(vec8 a, vec8 b) { return (vec8){min4(a.a, b.a), min4(a.b, b.b)}; }
INLINE vec8 max8(vec8 a, vec8 b) { return (vec8){max4(a.a, b.a), max4(a.b, b.b)}; }
INLINE vec8 pick8(const float *x, const uint16_t *c) { return (vec8){pick4(x, c), pick4(x, c + 4)}; }
#endif

#if defined(MAST_V4)
typedef __m512 vec16;
INLINE vec16 load16(const float *p) { return _mm512_loadu_ps(p); }
INLINE void store16(float *p, vec16 a) { _mm512_storeu_ps(p, a); }
INLINE vec16 set16(float a) { return _mm512_set1_ps(a); }
INLINE vec16 join16(vec8 a, vec8 b) { return _mm512_insertf32x8(_mm512_castps256_ps512(a), b, 1); }
INLINE vec16 add16(vec16 a, vec16 b) { return _mm512_add_ps(a, b); }
INLINE vec16 mul16(vec16 a, vec16 b) { return _mm512_mul_ps(a, b); }
INLINE vec16 div16(vec16 a, vec16 b) { return _mm512_div_ps(a, b); }
INLINE vec16 fma16(vec16 a, vec16 b, vec16 c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vec16 min16(vec16 a, vec16 b) { return _mm512_min_ps(a, b); }
INLINE vec16 max16(vec16 a, vec16 b) { return _mm512_max_ps(a, b); }
/* sixteen of the 32 floats at x */
INLINE vec16 pick16(const float *x, const uint8_t *pick)
{
    const __m512i index = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)pick));
    return _mm512_permutex2var_ps(load16(x), index, load16(x + 16));
}
#else
typedef struct {
    vec8 a, b;
} vec16;
INLINE vec16 load16(const float *p) { return (vec16){load8(p), load8(p + 8)}; }
INLINE void store16(float *p, vec16 a)
{
    store8(p, a.a);
    store8(p + 8, a.b);
}
INLINE vec16 set16(float a) { return (vec16){set8(a), set8(a)}; }
INLINE vec16 join16(vec8 a, vec8 b) { return (vec16){a, b}; }
INLINE vec16 add16(vec16 a, vec16 b) { return (vec16){add8(a.a, b.a), add8(a.b, b.b)}; }
INLINE vec16 mul16(vec16 a, vec16 b) { return (vec16){mul8(a.a, b.a), mul8(a.b, b.b)}; }
INLINE vec16 div16(vec16 a, vec16 b) { return (vec16){div8(a.a, b.a), div8(a.b, b.b)}; }
INLINE vec16 fma16(vec16 a, vec16 b, vec16 c) { return (vec16){fma8(a.a, b.a, c.a), fma8(a.b, b.b, c.b)}; }
INLINE vec16 min16(vec16 a, vec16 b) { return (vec16){min8(a.a, b.a), min8(a.b, b.b)}; }
INLINE vec16 max16(vec16 a, vec16 b) { return (vec16){max8(a.a, b.a), max8(a.b, b.b)}; }
#endif

/* c[0] + c[1] u + c[2] u^2 + c[3] u^3: pairs of terms first where there are registers for it, the steps that wait for one
 * another being what a single agent's gates take their time for. */
INLINE vec16 cubic16(vec16 u, const float c[4])
{
#if defined(MAST_V4)
    return fma16(mul16(u, u), fma16(u, set16(c[3]), set16(c[2])), fma16(u, set16(c[1]), set16(c[0])));
#else
    return fma16(u, fma16(u, fma16(u, set16(c[3]), set16(c[2])), set16(c[1])), set16(c[0]));
#endif
}

/* x P(x^2) / Q(x^2), x clamped to +-limit; p holds P's coefficients from the constant on, q those of Q but its
 * constant 1. NaN stays NaN. */
INLINE vec16 rational16(vec16 x, float limit, const float p[4], const float q[4])
{
    x = max16(set16(-limit), min16(set16(limit), x));
    const vec16 u = mul16(x, x);
    return div16(mul16(x, cubic16(u, p)), fma16(u, cubic16(u, q), set16(1.0f)));
}

/* Minimax fit of degree 7 over 8 on +-7.9: fitted error 1.2e-7, with float rounding below MAST_TANH_ERROR. */
INLINE vec16 tanh16(vec16 x)
{
    static const float p[4] = {9.999994040e-01f, 1.292268634e-01f, 2.948511858e-03f, 1.141467965e-05f};
    static const float q[4] = {4.625580609e-01f, 2.380351350e-02f, 2.383954416e-04f, 2.457241237e-07f};
    return rational16(x, 7.9f, p, q);
}

/* tanh(x / 2) / 2 with the halves in the coefficients. */
INLINE vec16 centred_sigmoid16(vec16 x)
{
    static const float p[4] = {2.499998510e-01f, 8.076678962e-03f, 4.607049777e-05f, 4.458859237e-08f};
    static const float q[4] = {1.156395152e-01f, 1.487719594e-03f, 3.724928774e-06f, 9.598598583e-10f};
    return rational16(x, 15.8f, p, q);
}

INLINE vec16 sigmoid16(vec16 x) { return add16(centred_sigmoid16(x), set16(0.5f)); }

/* The GRU's new state of sixteen units from their gates (n's input and recurrent part apart) and their state. */
INLINE vec16 gru16(vec16 r, vec16 z, vec16 n_input, vec16 n_recurrent, vec16 h)
{
    const vec16 at_half = fma16(n_recurrent, set16(0.5f), n_input); /* ready before r is */
    const vec16 n = tanh16(fma16(centred_sigmoid16(r), n_recurrent, at_half));
    return fma16(sigmoid16(z), fma16(n, set16(-1.0f), h), n);
}

/* Sums up to NaN when anything added to it is not finite. */
INLINE vec16 poison16(vec16 poison, vec16 a) { return fma16(a, set16(0.0f), poison); }

INLINE int poisoned(vec16 poison)
{
#if defined(MAST_V4)
    return _mm512_cmp_ps_mask(poison, poison, _CMP_UNORD_Q) != 0;
#elif defined(MAST_V3)
    const vec8 sum = add8(poison.a, poison.b);
    return _mm256_movemask_ps(_mm256_cmp_ps(sum, sum, _CMP_UNORD_Q)) != 0;
#else
    float v[16], sum = 0.0f;
    store16(v, poison);
    UNROLL for (int i = 0; i < 16; i++) sum += v[i];
    return !(sum == 0.0f);
#endif
}

INLINE int32_t at_most(int32_t n, int32_t limit) { return n < limit ? n : limit; }

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
