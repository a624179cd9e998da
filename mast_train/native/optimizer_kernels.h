/* The optimiser's kernels; included by kernels.c, once for each instruction set. */
#include "optimizer.h"

#include <math.h>

#define FOR_EACH(p, i)                                                                                                 \
    for (int32_t k = 0, i; k < (p)->count && (i = (p)->index ? (p)->index[k] : k, 1); k++)

static double square_norm(const step_parameter *p)
{
    double sum = 0.0;
    FOR_EACH(p, i)
        sum += (double)p->grad[i] * (double)p->grad[i];
    return sum;
}

/* Kingma and Ba 2015, as torch.optim.Adam writes it. */
static void adam(const step_parameter *p, const step_rule *r)
{
    const double step = (double)(*p->step += 1.0f);
    const float size = (float)(r->lr / (1.0 - pow(r->beta1, step))), root = (float)sqrt(1.0 - pow(r->beta2, step));
    const float new1 = (float)(1.0 - r->beta1), old2 = (float)r->beta2, new2 = (float)(1.0 - r->beta2);
    const float eps = (float)r->eps, scale = r->scale;
    float *restrict weight = p->weight, *restrict first = p->first, *restrict second = p->second;
    FOR_EACH(p, i)
    {
        const float g = p->grad[i] * scale, m = first[i] + new1 * (g - first[i]), v = old2 * second[i] + new2 * g * g;
        first[i] = m;
        second[i] = v;
        weight[i] -= size * m / (sqrtf(v) / root + eps);
    }
}

/* torch.optim.RMSprop, neither centered nor with momentum. */
static void rmsprop(const step_parameter *p, const step_rule *r)
{
    const float size = (float)r->lr, old = (float)r->beta2, new = (float)(1.0 - r->beta2);
    const float eps = (float)r->eps, scale = r->scale;
    float *restrict weight = p->weight, *restrict second = p->second;
    *p->step += 1.0f;
    FOR_EACH(p, i)
    {
        const float g = p->grad[i] * scale, v = old * second[i] + new * g * g;
        second[i] = v;
        weight[i] -= size * g / (sqrtf(v) + eps);
    }
}
