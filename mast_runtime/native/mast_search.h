/* The cross-entropy method of mast_runtime.search, in double as there, candidates side by side. Included by
 * mast_forward.h. */

#include <float.h>

#ifdef FLT_EVAL_METHOD
_Static_assert(FLT_EVAL_METHOD != 2, "sums must be of double's precision: build with -msse2 -mfpmath=sse");
#endif

#if defined(MAST_V4)
enum { SEARCH_LANES = 8, SEARCH_VECS = 2 };
#elif defined(MAST_V3)
enum { SEARCH_LANES = 4, SEARCH_VECS = 4 };
#else
enum { SEARCH_LANES = 2, SEARCH_VECS = 4 };
#endif
/* Candidates valued at once; padding is a multiple of it. */
enum { SEARCH_STEP = SEARCH_LANES * SEARCH_VECS };
typedef double doubles __attribute__((vector_size(SEARCH_LANES * sizeof(double)), aligned(8), may_alias));
typedef int64_t masks __attribute__((vector_size(SEARCH_LANES * sizeof(double)), may_alias));

#define POSITIVE(v) ((doubles)((masks)(v) & ((v) > 0.0))) /* a function of such vectors would have another ABI */

#define WORSE(key, place, than, then) ((key) < (than) || ((key) == (than) && (place) > (then)))

/* values [padded] of the candidates u [size][padded], of the units that read them; q: a network's outputs. */
static void value_candidates(const mast_search *s, uint32_t network, uint32_t size, const float *q, const double *u,
                             double *values)
{
    const uint32_t end = s->first[network + 1], columns = s->actions + 1;
    for (uint32_t j = 0; j < s->padded; j += SEARCH_STEP) {
        doubles sum[SEARCH_VECS] = {{0.0}};
        for (uint32_t i = s->first[network]; i < end; i++) {
            const double *const w = s->weights + (size_t)i * columns, read = (double)q[s->units[i]];
            doubles y[SEARCH_VECS] = {{0.0}};
            for (uint32_t k = 0; k < size; k++) {
                const double *const at = u + (size_t)k * s->padded + j;
                UNROLL for (int v = 0; v < SEARCH_VECS; v++) y[v] += w[k] * *(const doubles *)(at + v * SEARCH_LANES);
            }
            UNROLL for (int v = 0; v < SEARCH_VECS; v++) y[v] += read;
            UNROLL for (int v = 0; v < SEARCH_VECS; v++) sum[v] += w[s->actions] * POSITIVE(y[v]);
        }
        UNROLL for (int v = 0; v < SEARCH_VECS; v++) *(doubles *)(values + j + v * SEARCH_LANES) = sum[v];
    }
}

/* Puts an elite into a heap [size] whose first is the worst, from `at` downwards, where there is room for it. */
static void sift(double *keys, uint32_t *order, uint32_t size, uint32_t at, double key, uint32_t place)
{
    for (uint32_t below; (below = 2 * at + 1) < size; at = below) {
        if (below + 1 < size && WORSE(keys[below + 1], order[below + 1], keys[below], order[below]))
            below++;
        if (!WORSE(keys[below], order[below], key, place))
            break;
        keys[at] = keys[below], order[at] = order[below];
    }
    keys[at] = key, order[at] = place;
}

/* The places of the largest values, best first, on a grid of the largest; the earlier of equals. keys [elites] is scratch. */
static void find_elites(const mast_search *s, const double *values, double *keys, uint32_t *order)
{
    double largest = 0.0;
    for (uint32_t j = 0; j < s->candidates; j++) {
        const double size = values[j] < 0.0 ? -values[j] : values[j];
        largest = size > largest ? size : largest;
    }
    const double grid = largest * s->grid, step = grid > 0.0 ? grid : 1.0, whole = 6755399441055744.0; /* 1.5 * 2^52 */
    const uint32_t elites = s->elites;
    for (uint32_t j = 0; j < elites; j++)
        keys[j] = values[j] / step + whole - whole, order[j] = j; /* rounded */
    for (uint32_t at = elites / 2; at-- > 0;)
        sift(keys, order, elites, at, keys[at], order[at]);
    for (uint32_t j = elites; j < s->candidates; j++) {
        const double key = values[j] / step + whole - whole;
        if (key > keys[0])
            sift(keys, order, elites, 0, key, j);
    }
    for (uint32_t last = elites - 1; last > 0; last--) { /* the worst one goes to the end */
        const double key = keys[last];
        const uint32_t place = order[last];
        keys[last] = keys[0], order[last] = order[0];
        sift(keys, order, last, 0, key, place);
    }
}

static void search(const mast_search *s, uint32_t network, uint32_t size, const float *q, double *work, double *found)
{
    const uint32_t padded = s->padded, elites = s->elites;
    double *const u = work, *const values = u + (size_t)s->actions * padded, *const keys = values + padded;
    double *const mean = keys + elites, *const spread = mean + s->actions;
    uint32_t *const order = (uint32_t *)(void *)(spread + s->actions);
    for (uint32_t k = 0; k < s->actions; k++)
        mean[k] = found[k] = 0.0, spread[k] = 1.0;
    for (uint32_t i = 0; i < s->iterations; i++) {
        for (uint32_t k = 0; k < size; k++) {
            const double *const noise = s->noise + ((size_t)i * s->actions + k) * padded;
            double *const to = u + (size_t)k * padded;
            for (uint32_t j = 0; j < padded; j++) {
                const double drawn = mean[k] + spread[k] * noise[j];
                to[j] = drawn < -1.0 ? -1.0 : drawn > 1.0 ? 1.0 : drawn;
            }
            to[1] = found[k];
        }
        value_candidates(s, network, size, q, u, values);
        find_elites(s, values, keys, order);
        for (uint32_t k = 0; k < size; k++) {
            const double *const from = u + (size_t)k * padded;
            double sum = 0.0, squares = 0.0;
            for (uint32_t e = 0; e < elites; e++) {
                const double off = from[order[e]] - mean[k];
                sum += from[order[e]], squares += off * off;
            }
            found[k] = from[order[0]];
            mean[k] = sum / elites;
            spread[k] = __builtin_sqrt(squares / elites);
        }
    }
}
