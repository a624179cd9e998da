// Runs a kernel of mast_train/engines/fused on a CPU: every thread of a cluster is a coroutine that goes from
// barrier to barrier, in rising or falling order, so a missing barrier shows as a difference between the two orders.

#include <ucontext.h>

#include <climits>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <tuple>
#include <utility>
#include <vector>

#define MAST_EMULATION
#ifndef CLUSTER
#define CLUSTER 1
#endif
#define CLUSTER_ATTRIBUTE
#define __device__
#define __forceinline__ inline
#define __global__
#define __launch_bounds__(threads)
#define __restrict__

using std::max;
using std::min;

struct int2 { int x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct Index { unsigned x, y; };

enum { STACK = 32 << 10, GUARD = 64, FILL = 0xa5 };
enum Outcome { DONE, DIVERGED, TRAPPED, OVERRUN };

struct Block {
    Index index;
    std::vector<float4> memory;
};

struct Thread {
    Index index;
    Block *block;
    ucontext_t context;
    std::vector<char> stack;
    bool finished, waiting;
};

static std::vector<Block> cluster;
static std::vector<Thread> threads;
static Thread *running;
static ucontext_t scheduler;
static Outcome outcome;
static std::function<void()> body;

#define threadIdx (running->index)
#define blockIdx (running->block->index)
#define SHARED_MEMORY(name) float4 *name = running->block->memory.data()

inline float __expf(float x) { return expf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline int __float_as_int(float x) { int bits; memcpy(&bits, &x, 4); return bits; }
inline float __int_as_float(int bits) { float x; memcpy(&x, &bits, 4); return x; }
inline void prefetch(const float *) {}

inline void leave() { swapcontext(&running->context, &scheduler); }
inline void barrier() { running->waiting = true; leave(); }
inline void __trap() { outcome = TRAPPED; leave(); }

inline void share(float *address, float value) {
    auto offset = (char *)address - (char *)running->block->memory.data();
    for (Block &block : cluster) *(float *)((char *)block.memory.data() + offset) = value;
}

static void enter() {
    body();
    running->finished = true;
}

static void run_cluster(unsigned first, unsigned row, int block_threads, int shared_bytes, bool falling) {
    cluster.assign(CLUSTER, {});
    threads.assign(CLUSTER * block_threads, {});
    for (unsigned b = 0; b < CLUSTER; b++) {
        cluster[b].index = {first + b, row};
        cluster[b].memory.resize((shared_bytes + GUARD + 15) / 16);
        memset(cluster[b].memory.data(), FILL, cluster[b].memory.size() * 16);
    }
    for (size_t i = 0; i < threads.size(); i++) {
        Thread &thread = threads[i];
        thread.index = {unsigned(i % block_threads), 0};
        thread.block = &cluster[i / block_threads];
        thread.stack.resize(STACK);
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack.data();
        thread.context.uc_stack.ss_size = STACK;
        thread.context.uc_link = &scheduler;
        makecontext(&thread.context, enter, 0);
    }
    for (bool more = true; more && outcome == DONE;) {
        size_t finished = 0;
        for (size_t k = 0; k < threads.size() && outcome == DONE; k++) {
            running = &threads[falling ? threads.size() - 1 - k : k];
            running->waiting = false;
            if (!running->finished) swapcontext(&scheduler, &running->context);
            finished += running->finished;
        }
        more = finished < threads.size();
        if (more && finished && outcome == DONE) outcome = DIVERGED;
    }
    for (Block &block : cluster)
        for (int i = shared_bytes; i < shared_bytes + GUARD && outcome == DONE; i++)
            if (((unsigned char *)block.memory.data())[i] != FILL) outcome = OVERRUN;
}

template <class T> T from(long long value) {
    if constexpr (std::is_pointer_v<T>)
        return reinterpret_cast<T>(value);
    else
        return static_cast<T>(value);
}

template <class... A, size_t... I>
void set_body(void (*kernel)(A...), const long long *values, std::index_sequence<I...>) {
    body = [=] { kernel(from<A>(values[I])...); };
}

template <class... A>
int launch(void (*kernel)(A...), int count, const long long *values, const int *grid, int block_threads,
           int shared_bytes, int falling) {
    if (count != int(sizeof...(A))) return -1;
    set_body(kernel, values, std::index_sequence_for<A...>());
    outcome = DONE;
    for (int y = 0; y < grid[1]; y++)
        for (int x = 0; x < grid[0] && outcome == DONE; x += CLUSTER)
            run_cluster(x, y, block_threads, shared_bytes, falling);
    return outcome;
}

#define RUN(name) \
    extern "C" int run_##name(int count, const long long *values, const int *grid, int block_threads, int shared_bytes, int falling) { \
        return launch(name, count, values, grid, block_threads, shared_bytes, falling); \
    }
