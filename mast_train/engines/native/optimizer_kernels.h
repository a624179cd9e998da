/* The optimiser's kernels; included by kernels.h. */
#include "optimizer.h"

#include <math.h>

static double square_norm(const step_parameter *p)
{
    double sum = 0.0;
    for (int32_t k = 0; k < p->count; k++) {
        const float grad = p->grad[p->index ? p->index[k] : k];
        sum += (double)grad * (double)grad;
    }
    return sum;
}

/* Values of a parameter that are brought together, so that a step's arithmetic runs on vectors. */
enum { STEP_VALUES = 64 };

typedef struct {
    float weight[STEP_VALUES], grad[STEP_VALUES], first[STEP_VALUES], second[STEP_VALUES];
} step_values;

static void gather(const step_parameter *p, const int32_t *index, int32_t count, step_values *to)
{
    const float *weight = p->weight, *grad = p->grad, *first = p->first, *second = p->second;
    for (int32_t k = 0; k < count; k++) {
        const int32_t i = index[k];
        to->weight[k] = weight[i], to->grad[k] = grad[i], to->second[k] = second[i];
        to->first[k] = first ? first[i] : 0.0f;
    }
}

static void scatter(const step_values *from, const int32_t *index, int32_t count, const step_parameter *p)
{
    float *weight = p->weight, *first = p->first, *second = p->second;
    for (int32_t k = 0; k < count; k++) {
        const int32_t i = index[k];
        weight[i] = from->weight[k], second[i] = from->second[k];
        if (first)
            first[i] = from->first[k];
    }
}

/* Of float precision, as torch has them. */
typedef struct {
    float size, root, new1, old2, new2, eps, scale;
} step_numbers;

typedef void step_rows(const step_numbers *n, int32_t count, float *weight, const float *grad, float *first,
                       float *second);

static void adam_rows(const step_numbers *n, int32_t count, float *restrict weight, const float *restrict grad,
                      float *restrict first, float *restrict second)
{
    const float size = n->size, root = n->root, new1 = n->new1, old2 = n->old2, new2 = n->new2, eps = n->eps;
    for (int32_t i = 0; i < count; i++) {
        const float g = grad[i] * n->scale, m = first[i] + new1 * (g - first[i]), v = old2 * second[i] + new2 * g * g;
        first[i] = m;
        second[i] = v;
        weight[i] -= size * m / (sqrtf(v) / root + eps);
    }
}

static void rmsprop_rows(const step_numbers *n, int32_t count, float *restrict weight, const float *restrict grad,
                         float *restrict first, float *restrict second)
{
    (void)first;
    const float size = n->size, old2 = n->old2, new2 = n->new2, eps = n->eps;
    for (int32_t i = 0; i < count; i++) {
        const float g = grad[i] * n->scale, v = old2 * second[i] + new2 * g * g;
        second[i] = v;
        weight[i] -= size * g / (sqrtf(v) + eps);
    }
}

static void step_all(const step_parameter *p, const step_numbers *n, step_rows *rows)
{
    if (!p->index) {
        rows(n, p->count, p->weight, p->grad, p->first, p->second);
        return;
    }
    step_values some;
    for (int32_t k = 0; k < p->count; k += STEP_VALUES) {
        const int32_t count = at_most(p->count - k, STEP_VALUES);
        gather(p, p->index + k, count, &some);
        rows(n, count, some.weight, some.grad, some.first, some.second);
        scatter(&some, p->index + k, count, p);
    }
}

/* Kingma and Ba 2015, as torch.optim.Adam writes it. */
static void adam(const step_parameter *p, const step_rule *r)
{
    const double step = (double)(*p->step += 1.0f);
    const step_numbers n = {.size = (float)(r->lr / (1.0 - pow(r->beta1, step))),
                            .root = (float)sqrt(1.0 - pow(r->beta2, step)),
                            .new1 = (float)(1.0 - r->beta1),
                            .old2 = (float)r->beta2,
                            .new2 = (float)(1.0 - r->beta2),
                            .eps = (float)r->eps,
                            .scale = r->scale};
    step_all(p, &n, adam_rows);
}

/* torch.optim.RMSprop, neither centered nor with momentum. */
static void rmsprop(const step_parameter *p, const step_rule *r)
{
    *p->step += 1.0f;
    const step_numbers n = {.size = (float)r->lr,
                            .old2 = (float)r->beta2,
                            .new2 = (float)(1.0 - r->beta2),
                            .eps = (float)r->eps,
                            .scale = r->scale};
    step_all(p, &n, rmsprop_rows);
}
