/* The lock, the counters, the switches, and what every entry point does first and last. */
#define _GNU_SOURCE
#include "standin.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

Counters standin_counters;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

void lock(void) { pthread_mutex_lock(&mutex); }
void unlock(void) { pthread_mutex_unlock(&mutex); }
void wait_for_change(void) { pthread_cond_wait(&changed, &mutex); }
void announce_change(void) { pthread_cond_broadcast(&changed); }

int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

unsigned long thread_id(void) { return (unsigned long)syscall(SYS_gettid); }

bool switched_on(const char *variable) {
    const char *value = getenv(variable);
    return value && *value && strcmp(value, "0") != 0;
}

uint64_t number_from(const char *variable, uint64_t otherwise) {
    const char *value = getenv(variable);
    return value && *value ? strtoull(value, NULL, 0) : otherwise;
}

CUresult enter(const char *name, unsigned needs) {
    CUresult injected = fault_at(name); /* may sleep, so before the lock */
    lock();
    if (host_func_depth) /* the real driver forbids it; here Python's collector may run inside, so it is counted */
        standin_counters.calls_in_host_func++;
    if (injected != CUDA_SUCCESS)
        return leave(injected);
    if (lost() != CUDA_SUCCESS && !(needs & EVEN_IF_LOST))
        return leave(lost());
    if (needs & (INITED | CONTEXT | UNSAFE) && !inited())
        return leave(CUDA_ERROR_NOT_INITIALIZED);
    if (needs & CONTEXT && (!current_context() || current_context()->dead))
        return leave(current_context() ? CUDA_ERROR_CONTEXT_IS_DESTROYED : CUDA_ERROR_INVALID_CONTEXT);
    if (needs & UNSAFE && capture_forbids(false) != CUDA_SUCCESS)
        return leave(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    return CUDA_SUCCESS;
}

CUresult leave(CUresult result) {
    if (result != CUDA_SUCCESS && result != CUDA_ERROR_NOT_READY)
        standin_counters.errors++;
    if (result == CUDA_ERROR_INVALID_HANDLE)
        standin_counters.bad_handles++;
    unlock();
    return result;
}

/* ---- for tests, by ctypes ---- */

const char *standin_counter_names(void) {
    return ""
#define NAME(name) #name " "
        COUNTERS(NAME)
#undef NAME
        ;
}

/* Zero the counters that count events; those of what lives now, and of the peak, stay true. */
void standin_reset(void) {
    lock();
    Counters kept = standin_counters;
    memset(&standin_counters, 0, sizeof standin_counters);
    standin_counters.device_live_bytes = standin_counters.device_peak_bytes = kept.device_live_bytes;
    standin_counters.pinned_live_bytes = standin_counters.pinned_peak_bytes = kept.pinned_live_bytes;
    standin_counters.streams_live = kept.streams_live;
    standin_counters.events_live = kept.events_live;
    standin_counters.graphs_live = kept.graphs_live;
    standin_counters.graph_execs_live = kept.graph_execs_live;
    standin_counters.contexts_live = kept.contexts_live;
    unlock();
}

static void write_report(void) {
    const char *path = getenv("STANDIN_REPORT");
    FILE *file = path && *path ? fopen(path, "w") : NULL;
    if (!file)
        return;
    const char *separator = "{";
#define LINE(name)                                                                                                    \
    fprintf(file, "%s\"%s\": %llu", separator, #name, (unsigned long long)standin_counters.name);                     \
    separator = ",\n ";
    COUNTERS(LINE)
#undef LINE
    fputs("}\n", file);
    fclose(file);
}

__attribute__((constructor)) static void at_load(void) { atexit(write_report); }
