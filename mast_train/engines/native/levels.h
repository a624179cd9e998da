/* What an instruction set offers: the kernels that kernels.h makes for it. levels.def lists the instruction sets. */
#ifndef MAST_TRAIN_LEVELS_H
#define MAST_TRAIN_LEVELS_H
#include "optimizer.h"
#include "threads.h"

/* Agents: task i is tile i mod tiles of group i / tiles, and `packed` is the group whose weights `work` holds. Mixer
 * and targets: see their headers. */
typedef struct {
    const char *name;
    int (*runs)(void); /* whether this machine can; NULL: nothing was built for its kind of processor */
    train_task agents_forward, agents_backward, mixer_forward, mixer_backward, soft_mellowmax;
    double (*square_norm)(const step_parameter *p);
    void (*adam)(const step_parameter *p, const step_rule *r);
    void (*rmsprop)(const step_parameter *p, const step_rule *r);
} train_level;

#define LEVEL(name) extern const train_level train_level_##name;
#include "levels.def"
#undef LEVEL

/* For the files of the levels: which processor this is, and compiling for more than the build's baseline from
 * TARGET_BEGIN("feature,feature") to TARGET_END. */
#if (defined(__x86_64__) || defined(_M_X64)) && defined(__GNUC__)
#define TRAIN_X86
#elif defined(__ARM_NEON) && defined(__aarch64__)
#define TRAIN_NEON
#endif
#define TRAIN_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define TARGET_BEGIN(features)                                                                                         \
    TRAIN_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define TARGET_END TRAIN_PRAGMA(clang attribute pop)
#else
#define TARGET_BEGIN(features) TRAIN_PRAGMA(GCC push_options) TRAIN_PRAGMA(GCC target(features))
#define TARGET_END TRAIN_PRAGMA(GCC pop_options)
#endif
#endif
