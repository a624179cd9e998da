#include "threads.h"

#include <stdlib.h>

#if !defined(_WIN32)
#include <pthread.h>
#define TRAIN_THREADS
#endif

enum { MAX_THREADS = 256 };

typedef struct {
    train_task task;
    const void *call;
    size_t work_size;
    int32_t count, next, failed;
} train_job;

static void *work_on(void *argument)
{
    train_job *job = argument;
    char *memory = malloc(job->work_size * sizeof(float) + 64);
    int32_t packed = -1;
    if (!memory)
        __atomic_store_n(&job->failed, 1, __ATOMIC_RELAXED);
    float *work = (float *)(((uintptr_t)memory + 63) / 64 * 64);
    for (int32_t i; memory && (i = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED)) < job->count;)
        job->task(job->call, i, work, &packed);
    free(memory);
    return NULL;
}

int train_run(train_task task, const void *call, int32_t count, size_t work_size, int threads)
{
    train_job job = {task, call, work_size, count, 0, 0};
    threads = threads < MAX_THREADS ? threads : MAX_THREADS;
    threads = threads < count ? threads : count;
#ifdef TRAIN_THREADS
    pthread_t id[MAX_THREADS];
    int started = 0;
    while (started < threads - 1 && !pthread_create(&id[started], NULL, work_on, &job))
        started++;
#endif
    work_on(&job);
#ifdef TRAIN_THREADS
    for (int i = 0; i < started; i++)
        pthread_join(id[i], NULL);
#endif
    return !job.failed;
}
