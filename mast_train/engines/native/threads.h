/* Independent tasks spread over threads. They write apart, so the number of threads changes no bit. */
#ifndef MAST_TRAIN_THREADS_H
#define MAST_TRAIN_THREADS_H
#include <stddef.h>
#include <stdint.h>

/* `work` is the thread's own memory; `packed`, -1 at first, is for the task to note what it left there. */
typedef void (*train_task)(const void *call, int32_t index, float *work, int32_t *packed);

/* Tasks 0 to count - 1, each with `work_size` floats at hand. Returns 0 when memory is short. */
int train_run(train_task task, const void *call, int32_t count, size_t work_size, int threads);
#endif
