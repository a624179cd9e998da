// The recurrence of a GRU on its connections alone: for every group its own weights, all steps in one launch.
//
// A cluster of CLUSTER blocks serves one group and 32 of its rows; lane l of every warp is row l. The blocks and their
// warps share out the hidden units. The connections of a block stay in shared memory for all steps, as a stream of
// pairs {value, value, place, place}: `place` is where in the tile the row's operand lies, in bytes, and the sign bit of
// the second place ends a segment. A segment is one sum: of a gate (forward) or of a column (backward), never empty.
// All lanes read a pair at one address and their operands from 32 adjacent words, so no access conflicts.
//
// Arrays of rows are [group][channel][place]. Step t of row r is at place begin(t) + r: t * rows + r, every row having a
// place at every step, or packed, where `begins` says so and rows that have ended have none.

#ifndef MAST_EMULATION
#define SHARED_MEMORY(name) extern __shared__ float4 name[]
#if CLUSTER > 1
#define CLUSTER_ATTRIBUTE __cluster_dims__(CLUSTER, 1, 1)
#else
#define CLUSTER_ATTRIBUTE
#endif

__device__ __forceinline__ void prefetch(const float *address) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

// Everything stored before is seen by every thread of the cluster after.
__device__ __forceinline__ void barrier() {
#if CLUSTER > 1
    __syncwarp();
    asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
    __syncthreads();
#endif
}

// Stores at one place of every block's shared memory.
__device__ __forceinline__ void share(float *address, float value) {
#if CLUSTER > 1
    unsigned here = (unsigned)__cvta_generic_to_shared(address), there;
#pragma unroll
    for (int rank = 0; rank < CLUSTER; rank++) {
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"(rank));
        asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(there), "f"(value) : "memory");
    }
#else
    *address = value;
#endif
}
#endif

#define LANES 32
#define SLACK 2 // pairs that a walk reads ahead of its last

__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

__device__ __forceinline__ float tanh_of(float x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }

// A walk over a warp's stream. Pairs are read two ahead and operands one ahead, so that their latencies overlap.
struct Walk {
    const float4 *next;
    const char *tile;
    float4 now, ahead;
    float first, second;

    __device__ __forceinline__ float operand(float place) const {
        return *(const float *)(tile + (__float_as_int(place) & 0x7fffffff));
    }

    __device__ __forceinline__ Walk(const float4 *stream, const float *lane_of_tile)
        : next(stream + 2), tile((const char *)lane_of_tile), now(stream[0]), ahead(stream[1]) {
        first = operand(now.z);
        second = operand(now.w);
    }

    __device__ __forceinline__ float segment() {
        float sum = 0.0f;
        bool more;
        do {
            more = __float_as_int(now.w) >= 0;
            float a = first, b = second, wa = now.x, wb = now.y;
            now = ahead;
            first = operand(now.z);
            second = operand(now.w);
            ahead = *next++;
            sum = fmaf(wa, a, sum);
            sum = fmaf(wb, b, sum);
        } while (more);
        return sum;
    }
};

// What both kernels need of their place in the grid.
struct Tile {
    int group, rank, warp, lane, row, rows, length, longest;
    const int *begins;
    bool inside;
    int rest, stride; // places that are nobody's step: the lane's first, and how far apart its own are

    __device__ __forceinline__ int begin(int t) const { return begins ? begins[t] : t * rows; }

    // Whether a lane has a place of its own at a step that it does or does not take part in.
    __device__ __forceinline__ bool stores(bool alive) const { return alive || (inside && !begins); }

    __device__ __forceinline__ Tile(const int *lengths, const int *all_begins, int steps, int rows, int places)
        : rows(rows) {
        group = blockIdx.y;
        rank = blockIdx.x % CLUSTER;
        warp = threadIdx.x / LANES;
        lane = threadIdx.x % LANES;
        int first = blockIdx.x / CLUSTER * LANES;
        inside = first + lane < rows;
        row = inside ? first + lane : rows - 1; // lanes beyond the last row compute it again and store nothing
        length = inside ? steps : 0;
        longest = steps;
        if (lengths) {
            const int *own = lengths + (long long)group * rows;
            length = inside ? min(own[row], steps) : 0;
            longest = 0;
            for (int i = first; i < min(first + LANES, rows); i++) longest = max(longest, min(own[i], steps));
        }
        begins = all_begins ? all_begins + (long long)group * (steps + 1) : nullptr;
        stride = begins ? LANES : rows;
        rest = begins ? begins[steps] + lane : longest * rows + row;
        if (begins ? first > 0 : !inside) rest = places;
    }
};

// Puts the block's pairs into shared memory, their values as the weights are now. place, source: two to a pair; a source
// of -1 is a filler of value 0. Returns where the warp's own stream begins.
__device__ __forceinline__ const float4 *gather(float4 *stream, int capacity, const Tile &at, const float *weight,
                                                const int2 *place, const int2 *source, const int *starts) {
    const int *own = starts + (long long)at.group * (CLUSTER * WARPS + 1) + at.rank * WARPS;
    int begin = own[0], count = own[WARPS] - begin;
    if (count > capacity) __trap(); // recorded for an older, smaller structure
    for (int i = threadIdx.x; i < count + SLACK; i += WARPS * LANES) {
        float4 pair = {0.0f, 0.0f, 0.0f, 0.0f};
        if (i < count) {
            int2 from = source[begin + i], to = place[begin + i];
            pair.x = from.x >= 0 ? weight[from.x] : 0.0f;
            pair.y = from.y >= 0 ? weight[from.y] : 0.0f;
            pair.z = __int_as_float(to.x);
            pair.w = __int_as_float(to.y);
        }
        stream[i] = pair;
    }
    return stream + (own[at.warp] - begin);
}

// states [G][H][P], saved [G][5H][P] (r, z, n, from_h, the state before; may be null) from gates (strides in elements,
// places adjacent). Behind a row's end, and where nobody's step is, states and states before are 0. lengths [G][R] may be
// null: all steps; begins [G][steps + 1] may be null. With begins, lengths fall from row to row and begins[steps] is
// their sum.
extern "C" __global__ void CLUSTER_ATTRIBUTE __launch_bounds__(WARPS *LANES)
    gru_forward(const float *__restrict__ gates, long long gates_group, long long gates_channel,
                const float *__restrict__ weight, const float *__restrict__ bias, const int *__restrict__ lengths,
                const int *__restrict__ begins, const int2 *__restrict__ place, const int2 *__restrict__ source,
                const int *__restrict__ starts, const int *__restrict__ units, float *__restrict__ states,
                float *__restrict__ saved, int steps, int rows, int places, int hidden, int slots, int capacity) {
    SHARED_MEMORY(shared);
    float4 *stream = shared, *records = stream + capacity + SLACK; // records: {unit, bias of r, z, n}
    float *tile = (float *)(records + WARPS * slots);              // [2][hidden][LANES]
    const Tile at(lengths, begins, steps, rows, places);
    const float4 *own = gather(stream, capacity, at, weight + 3ll * hidden * hidden * at.group, place, source, starts);
    const int *block_units = units + ((long long)at.group * CLUSTER + at.rank) * WARPS * slots;
    for (int i = threadIdx.x; i < WARPS * slots; i += WARPS * LANES) {
        int unit = block_units[i];
        const float *b = bias + 3ll * hidden * at.group + max(unit, 0);
        records[i] = {__int_as_float(unit), b[0], b[hidden], b[2 * hidden]};
    }
    for (int i = threadIdx.x; i < hidden * LANES; i += WARPS * LANES) tile[i] = 0.0f;
    barrier();
    const float4 *mine = records + at.warp * slots;
    const float *x = gates + at.group * gates_group;
    const long long channel = places, gate = hidden * channel;
    float *h_out = states + at.group * gate, *kept = saved ? saved + 5 * at.group * gate : nullptr;
    // Where steps begin is read a step before it is needed.
    for (int t = 0, here, next = at.begin(0), later = at.begin(min(1, steps)); t < at.longest; t++) {
        here = next;
        next = later;
        later = at.begin(min(t + 2, steps));
        const bool alive = t < at.length, stores = at.stores(alive);
        const int own_place = here + min(at.row, next - here - 1); // lanes that have ended read another row's
        const float *before = tile + (t & 1) * hidden * LANES + at.lane;
        float *after = tile + (~t & 1) * hidden * LANES + at.lane;
        Walk walk(own, before);
        for (int s = 0; s < slots; s++) {
            float4 record = mine[s];
            int unit = __float_as_int(record.x);
            if (unit < 0) break;
            const float *from = x + unit * gates_channel + own_place;
            float x_r = from[0], x_z = from[hidden * gates_channel], x_n = from[2 * hidden * gates_channel];
            if (t + 1 < at.length) {
                const float *then = from + (next - here);
                prefetch(then);
                prefetch(then + hidden * gates_channel);
                prefetch(then + 2 * hidden * gates_channel);
            }
            float h = before[unit * LANES];
            float sum_r = walk.segment(), sum_z = walk.segment(), from_h = record.w + walk.segment();
            float r = sigmoid(x_r + record.y + sum_r), z = sigmoid(x_z + record.z + sum_z);
            float n = tanh_of(fmaf(r, from_h, x_n)), now = alive ? fmaf(z, h - n, n) : 0.0f;
            share(after + unit * LANES, now);
            long long to = unit * channel + own_place;
            if (stores) {
                h_out[to] = now;
                if (kept) {
                    kept[to] = r;
                    kept[to + gate] = z;
                    kept[to + 2 * gate] = n;
                    kept[to + 3 * gate] = from_h;
                    kept[to + 4 * gate] = h;
                }
            }
        }
        barrier();
    }
    for (int s = 0; s < slots; s++) {
        int unit = __float_as_int(mine[s].x);
        if (unit < 0) break;
        for (int p = at.rest; p < places; p += at.stride) {
            h_out[unit * channel + p] = 0.0f;
            if (kept) kept[unit * channel + 4 * gate + p] = 0.0f;
        }
    }
}

// grads [G][4H][P]: of r, z, n before their functions, and of from_h, 0 behind a row's end and where nobody's step is;
// grad_states with strides, places adjacent.
extern "C" __global__ void CLUSTER_ATTRIBUTE __launch_bounds__(WARPS *LANES)
    gru_backward(const float *__restrict__ grad_states, long long grad_group, long long grad_channel,
                 const float *__restrict__ weight, const int *__restrict__ lengths, const int *__restrict__ begins,
                 const int2 *__restrict__ place, const int2 *__restrict__ source, const int *__restrict__ starts,
                 const int *__restrict__ units, const float *__restrict__ saved, float *__restrict__ grads, int steps,
                 int rows, int places, int hidden, int slots, int capacity) {
    SHARED_MEMORY(shared);
    float4 *stream = shared;
    float *tile = (float *)(stream + capacity + SLACK); // [3 * hidden][LANES]: gradients of r, z, from_h
    float *carried = tile + 3 * hidden * LANES;         // [WARPS * slots][LANES]: what a unit's state passes back
    const Tile at(lengths, begins, steps, rows, places);
    const float4 *own = gather(stream, capacity, at, weight + 3ll * hidden * hidden * at.group, place, source, starts);
    const int *mine = units + (((long long)at.group * CLUSTER + at.rank) * WARPS + at.warp) * slots;
    float *carry = carried + at.warp * slots * LANES + at.lane;
    for (int s = 0; s < slots; s++) carry[s * LANES] = 0.0f;
    barrier();
    const float *upstream = grad_states + at.group * grad_group;
    const long long channel = places, gate = hidden * channel;
    const float *kept = saved + 5 * at.group * gate;
    float *out = grads + 4 * at.group * gate, *cells = tile + at.lane;
    const int top = at.longest - 1;
    int next, here = at.begin(top + 1), below = at.begin(max(top, 0)), under = at.begin(max(top - 1, 0));
    for (int t = top; t >= 0; t--) {
        next = here;
        here = below;
        below = under;
        under = at.begin(max(t - 2, 0));
        const bool alive = t < at.length, stores = at.stores(alive);
        const int own_place = here + min(at.row, next - here - 1);
#pragma unroll 2
        for (int s = 0; s < slots; s++) {
            int unit = mine[s];
            if (unit < 0) break;
            long long to = unit * channel + own_place;
            const float *above = upstream + unit * grad_channel + own_place;
            float dh = *above + carry[s * LANES], h = kept[to + 4 * gate];
            float r = kept[to], z = kept[to + gate], n = kept[to + 2 * gate], from_h = kept[to + 3 * gate];
            if (t && alive) {
                const float *then = kept + to - (here - below);
                prefetch(above - (here - below));
                prefetch(then);
                prefetch(then + gate);
                prefetch(then + 2 * gate);
                prefetch(then + 3 * gate);
                prefetch(then + 4 * gate);
            }
            float d_n = dh * (1.0f - z) * (1.0f - n * n), d_h = d_n * r;
            float d_r = d_n * from_h * r * (1.0f - r), d_z = dh * (h - n) * z * (1.0f - z);
            if (!alive) d_n = d_h = d_r = d_z = 0.0f;
            carry[s * LANES] = alive ? dh * z : 0.0f;
            share(cells + unit * LANES, d_r);
            share(cells + (hidden + unit) * LANES, d_z);
            share(cells + (2 * hidden + unit) * LANES, d_h);
            if (stores) {
                out[to] = d_r;
                out[to + gate] = d_z;
                out[to + 2 * gate] = d_n;
                out[to + 3 * gate] = d_h;
            }
        }
        barrier();
        Walk walk(own, cells);
        for (int s = 0; s < slots && mine[s] >= 0; s++) carry[s * LANES] += walk.segment();
        barrier();
    }
    for (int s = 0; s < slots; s++) {
        if (mine[s] < 0) break;
        for (int p = at.rest; p < places; p += at.stride)
            for (int k = 0; k < 4; k++) out[mine[s] * channel + k * gate + p] = 0.0f;
    }
}
