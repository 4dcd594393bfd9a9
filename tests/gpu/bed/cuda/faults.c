/* Errors on demand. STANDIN_FAULTS, or standin_faults() later, holds a list of rules, separated by commas:
 *
 *   WHAT:N=CODE            the N-th WHAT (from 1) answers CUDA error CODE, once
 *   WHAT:N+=CODE           so does every later one
 *   WHAT:N=CODE:sticky     from then on every call answers CODE, as after an illegal address
 *   WHAT:N=sleepMS         the N-th WHAT takes MS milliseconds longer (a device that hangs: a large number)
 *
 * WHAT is an entry point (cuMemAlloc; a version at its end does not matter), or something that runs on a stream: `op`
 * (any of the following), `copy`, `fill`, `host` (a host function), `graph` (a launch of one). An error of the latter
 * kind comes to light at the next wait, as errors of a real device do. N counts from when the rule was set.
 */
#define _GNU_SOURCE
#include "standin.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct {
    char what[64];
    unsigned long at, seen;
    bool onward, sticky;
    int code, sleep_ms;
} Fault;

enum { MOST = 32 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* its own: rules are looked up with and without the lock */
static Fault faults[MOST];
static int count;
static volatile CUresult sticky_error;

CUresult lost(void) { return sticky_error; }

void lose(CUresult error) {
    if (sticky_error == CUDA_SUCCESS)
        sticky_error = error;
}

static bool parse(const char *text, Fault *fault) {
    char action[32] = "", plus[2] = "";
    memset(fault, 0, sizeof *fault);
    if (sscanf(text, "%63[A-Za-z0-9_]:%lu%1[+]=%31s", fault->what, &fault->at, plus, action) != 4 &&
        sscanf(text, "%63[A-Za-z0-9_]:%lu=%31s", fault->what, &fault->at, action) != 3)
        return false;
    fault->onward = plus[0] == '+';
    char *colon = strchr(action, ':');
    fault->sticky = colon && strcmp(colon, ":sticky") == 0;
    if (colon && !fault->sticky)
        return false;
    if (sscanf(action, "sleep%d", &fault->sleep_ms) == 1)
        return fault->at > 0;
    return sscanf(action, "%d", &fault->code) == 1 && fault->at > 0 && fault->code > 0;
}

/* Replace all rules. Returns how many there are now, or -1 (and none) if the text is not a list of rules. */
int standin_faults(const char *text) {
    pthread_mutex_lock(&mutex);
    char *copy = strdup(text ? text : ""), *rest = copy, *item;
    count = 0;
    while ((item = strsep(&rest, ",")))
        if (*item && (count == MOST || !parse(item, &faults[count++]))) {
            count = -1;
            break;
        }
    free(copy);
    int result = count;
    count = count < 0 ? 0 : count;
    pthread_mutex_unlock(&mutex);
    return result;
}

/* Make the context lost now, with this error; 0 makes it whole again, which no real device does. */
void standin_lose(int code) { sticky_error = (CUresult)code; }

/* "cuMemAlloc" names cuMemAlloc, cuMemAlloc_v2, ... */
static bool names(const char *what, const char *name) {
    size_t n = strlen(what);
    if (strncmp(what, name, n) != 0)
        return false;
    return name[n] == '\0' || (name[n] == '_' && name[n + 1] == 'v' && name[n + 2] >= '0' && name[n + 2] <= '9');
}

CUresult fault_at(const char *name) {
    int code = 0, sleep_ms = 0;
    bool sticky = false;
    pthread_mutex_lock(&mutex);
    for (int i = 0; i < count; i++) {
        Fault *f = &faults[i];
        if (!names(f->what, name))
            continue;
        f->seen++;
        if (f->seen == f->at || (f->onward && f->seen > f->at)) {
            code = f->code ? f->code : code;
            sleep_ms += f->sleep_ms;
            sticky |= f->sticky;
            standin_counters.faults_given++;
        }
    }
    pthread_mutex_unlock(&mutex);
    if (sleep_ms) {
        struct timespec t = {sleep_ms / 1000, sleep_ms % 1000 * 1000000L};
        nanosleep(&t, NULL);
    }
    if (sticky)
        lose((CUresult)code);
    return (CUresult)code;
}

__attribute__((constructor)) static void at_load(void) {
    const char *text = getenv("STANDIN_FAULTS");
    if (standin_faults(text) < 0) {
        fprintf(stderr, "STANDIN_FAULTS is not a list of WHAT:N=CODE: %s\n", text);
        exit(2); /* a test that believes it injects an error and does not would pass for nothing */
    }
}

/* ---- names ---- */

#define ERRORS(X)                                                                                                     \
    X(CUDA_SUCCESS, "no error") X(CUDA_ERROR_INVALID_VALUE, "invalid argument")                                       \
    X(CUDA_ERROR_OUT_OF_MEMORY, "out of memory") X(CUDA_ERROR_NOT_INITIALIZED, "initialization error")                \
    X(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected")                                                     \
    X(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal") X(CUDA_ERROR_INVALID_CONTEXT, "invalid device context")    \
    X(CUDA_ERROR_ECC_UNCORRECTABLE, "uncorrectable ECC error encountered")                                            \
    X(CUDA_ERROR_INVALID_HANDLE, "invalid resource handle") X(CUDA_ERROR_NOT_READY, "device not ready")               \
    X(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered")                                         \
    X(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "too many resources requested for launch")                                  \
    X(CUDA_ERROR_LAUNCH_TIMEOUT, "the launch timed out and was terminated")                                           \
    X(CUDA_ERROR_CONTEXT_IS_DESTROYED, "context is destroyed")                                                        \
    X(CUDA_ERROR_HARDWARE_STACK_ERROR, "hardware stack error") X(CUDA_ERROR_ILLEGAL_INSTRUCTION, "illegal instruction") \
    X(CUDA_ERROR_MISALIGNED_ADDRESS, "misaligned address") X(CUDA_ERROR_ASSERT, "device-side assert triggered")       \
    X(CUDA_ERROR_LAUNCH_FAILED, "unspecified launch failure") X(CUDA_ERROR_NOT_PERMITTED, "operation not permitted")  \
    X(CUDA_ERROR_NOT_SUPPORTED, "operation not supported")                                                            \
    X(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "operation not permitted when stream is capturing")                      \
    X(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "operation failed due to a previous error during capture")               \
    X(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "capture ended on a stream that did not begin it")                         \
    X(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "capturing stream has unjoined work")                                       \
    X(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "operation would make the legacy stream depend on a capturing blocking stream") \
    X(CUDA_ERROR_CAPTURED_EVENT, "operation not permitted on an event last recorded in a capturing stream")           \
    X(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "attempt to terminate a thread-local capture sequence from another thread") \
    X(CUDA_ERROR_SYSTEM_NOT_READY, "system not yet initialized") X(CUDA_ERROR_UNKNOWN, "unknown error")

CUresult cuGetErrorName(CUresult error, const char **text) {
    switch (error) {
#define CASE(name, words) case name: *text = #name; return CUDA_SUCCESS;
        ERRORS(CASE)
#undef CASE
    default: *text = NULL; return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult cuGetErrorString(CUresult error, const char **text) {
    switch (error) {
#define CASE(name, words) case name: *text = words; return CUDA_SUCCESS;
        ERRORS(CASE)
#undef CASE
    default: *text = NULL; return CUDA_ERROR_INVALID_VALUE;
    }
}
