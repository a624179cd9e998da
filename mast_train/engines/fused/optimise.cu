// The optimisers' steps of all seeds over one flat memory, on the connections alone: Adam or RMSprop, gradients clipped by
// each seed's global norm. Two launches, each a grid of (pieces, seeds).
//
// A piece is a stretch of one parameter of one seed, {where seed 0's begins, how far apart two seeds' are, its length}.
// Sums go in a fixed order. Where the mask is false nothing is read or written but the mask: weights and moments are 0.

#ifndef MAST_EMULATION
#define SHARED_MEMORY(name) extern __shared__ float4 name[]
__device__ __forceinline__ void barrier() { __syncthreads(); }
#endif

// The sum of a block's threads, to all of them.
__device__ __forceinline__ float sum_of_block(float mine, float *sums) {
    sums[threadIdx.x] = mine;
    barrier();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        barrier();
    }
    return sums[0];
}

// partial [seeds][pieces]: of each the sum of squares of its gradients. The seeds' steps are counted.
extern "C" __global__ void squares(const float *__restrict__ gradients, const bool *__restrict__ mask,
                                   const int *__restrict__ pieces, float *partial, float *steps, int count) {
    SHARED_MEMORY(memory);
    const int *piece = pieces + 3 * blockIdx.x;
    int first = piece[0] + blockIdx.y * piece[1];
    float sum = 0.0f;
    for (int i = first + threadIdx.x; i < first + piece[2]; i += THREADS)
        if (mask[i]) sum = fmaf(gradients[i], gradients[i], sum);
    sum = sum_of_block(sum, (float *)memory);
    if (threadIdx.x == 0) {
        partial[blockIdx.y * count + blockIdx.x] = sum;
        if (blockIdx.x == 0) steps[blockIdx.y] += 1.0f;
    }
}

// A step by the sums of `squares`. norms [seeds]: before clipping. first: Adam's first moment, null for RMSprop. From
// max_norm on they are float32 numbers, bit by bit: of a moment's decay, and of its rest, 1 - decay.
extern "C" __global__ void clipped(float *parameters, const float *__restrict__ gradients, const bool *__restrict__ mask,
                                float *first, float *second, const int *__restrict__ pieces,
                                const float *__restrict__ partial, const float *__restrict__ steps,
                                const float *__restrict__ rates, float *norms, int count, int max_norm, int rest1,
                                int decay2, int rest2, int eps) {
    SHARED_MEMORY(memory);
    int seed = blockIdx.y;
    float sum = 0.0f;
    for (int i = threadIdx.x; i < count; i += THREADS) sum += partial[seed * count + i];
    float norm = sqrtf(sum_of_block(sum, (float *)memory));
    float clip = __int_as_float(max_norm) / (norm + 1e-6f), rate = rates[seed], root = 1.0f;
    clip = clip >= 1.0f ? 1.0f : clip; // not a number stays one
    if (first) {
        // 1 - decay^steps, without the digits that a difference of nearly equal numbers loses
        rate /= -expm1f(steps[seed] * log1pf(-__int_as_float(rest1)));
        root = sqrtf(-expm1f(steps[seed] * log1pf(-__int_as_float(rest2))));
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) norms[seed] = norm;
    const int *piece = pieces + 3 * blockIdx.x;
    int begin = piece[0] + seed * piece[1];
    for (int i = begin + threadIdx.x; i < begin + piece[2]; i += THREADS) {
        if (!mask[i]) continue;
        float g = gradients[i] * clip, moved = g;
        float square = second[i] * __int_as_float(decay2) + __int_as_float(rest2) * g * g;
        second[i] = square;
        if (first) first[i] = moved = first[i] + __int_as_float(rest1) * (g - first[i]);
        parameters[i] -= rate * (moved / (sqrtf(square) / root + __int_as_float(eps)));
    }
}
