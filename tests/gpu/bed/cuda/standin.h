/* A libcuda.so.1 for machines without a GPU: what its files share.
 *
 * Device memory is host memory. Work put on a stream is only QUEUED; it runs when something waits for it, on the
 * thread that waits, and no further than the wait demands. Code that forgets a wait therefore reads stale bytes every
 * time, not once in a thousand. Types and prototypes are those of NVIDIA's cuda.h, so that a wrong signature does not
 * compile; what cuda.h names and these files leave out answers CUDA_ERROR_NOT_SUPPORTED (see build.py).
 *
 * Switches (environment, read once):
 *   STANDIN_NO_DEVICE=1    cuInit answers CUDA_ERROR_NO_DEVICE
 *   STANDIN_INTEGRATED=1   the attributes of a Jetson: integrated, memory shared with the CPU
 *   STANDIN_COHERENT=1     the attributes of a GH200: pageable memory by the host's page tables
 *   STANDIN_MEMORY=n       bytes of device memory (default 8 GiB); beyond them CUDA_ERROR_OUT_OF_MEMORY
 *   STANDIN_PINNED=n       bytes of pinned host memory (default no limit)
 *   STANDIN_FAULTS=...     errors to give, see faults.c
 *   STANDIN_REPORT=file    the counters as JSON, written when the process ends in order
 */
#pragma once

#include <cuda.h>
#include <cudaProfiler.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- counters: read by ctypes as an array of uint64 whose names standin_counter_names() gives ---- */

#define COUNTERS(X)                                                                                                   \
    X(device_allocs) X(device_frees) X(pinned_allocs) X(pinned_frees) X(managed_allocs) X(managed_frees)              \
    X(device_live_bytes) X(device_peak_bytes) X(pinned_live_bytes) X(pinned_peak_bytes)                               \
    X(h2d) X(h2d_bytes) X(d2h) X(d2h_bytes) X(d2d) X(d2d_bytes) X(pageable) X(fills)                                  \
    X(host_funcs) X(graph_launches) X(captures) X(captures_failed) X(syncs) X(queries)                                \
    X(streams_live) X(events_live) X(graphs_live) X(graph_execs_live) X(contexts_live)                                \
    X(ops_run) X(copy_ns) X(host_func_ns)                                                                             \
    X(errors) X(faults_given) X(bad_access) X(overruns) X(bad_handles) X(leaked_allocs) X(calls_in_host_func)

typedef struct {
#define FIELD(name) uint64_t name;
    COUNTERS(FIELD)
#undef FIELD
} Counters;

extern Counters standin_counters;

/* ---- objects ---- */

typedef enum { DEVICE = 1, PINNED = 2, MANAGED = 3, REGISTERED = 4 } MemoryKind;

typedef struct Memory {
    char *base;      /* what the caller got */
    size_t bytes;
    MemoryKind kind;
    bool freed;      /* kept for a while after the free, so that a late use is noticed */
    unsigned flags;
    CUcontext context;
    struct Memory *next;
} Memory;

typedef enum { COPY, FILL, RECORD, WAIT, HOST_FUNC, GRAPH } OpKind;

typedef struct Op {
    OpKind kind;
    uint64_t number; /* order of the calls over all streams, from 1 */
    struct Op *next;
    char *to;        /* COPY, FILL */
    const char *from;
    char *staged;    /* COPY: snapshot of a pageable source, owned */
    size_t bytes;
    bool to_known, from_known; /* inside memory of ours: checked again when it runs */
    unsigned value, width;     /* FILL */
    CUevent event;             /* RECORD */
    CUstream other;            /* WAIT: until this stream has done that number */
    uint64_t other_number;
    CUhostFn function;         /* HOST_FUNC */
    void *argument;
    CUgraphExec graph;         /* GRAPH */
} Op;

struct CUctx_st {
    bool primary, dead;
    unsigned references, flags;
};

struct CUstream_st {
    CUcontext context;
    bool is_null, blocking, dead;
    bool busy;          /* a thread runs the op at the head, maybe without the lock */
    Op *head, *tail;
    uint64_t done;      /* number of the last op that ran */
    CUresult error;     /* not sticky, told to the next one who waits */
    CUgraph capture;    /* while it captures */
    CUstream origin;    /* the stream on which that capture began */
    uint64_t captured;  /* ops it put into that capture */
    bool joined;        /* nothing of it that the origin has not waited for */
    struct CUstream_st *next;
};

struct CUevent_st {
    CUcontext context;
    unsigned flags;
    bool dead, recorded;
    CUstream stream;    /* of the last record */
    uint64_t number;
    int64_t time_ns;
    CUgraph capture;    /* recorded inside this capture */
    uint64_t captured;
    struct CUevent_st *next;
};

struct CUgraph_st {
    Op *head, *tail;
    size_t nodes;
    bool open, invalid;
    CUstreamCaptureMode mode;
    unsigned long thread;
};

struct CUgraphExec_st {
    Op *head;
    unsigned references; /* one of its owner, one per launch in a queue */
};

/* ---- entering and leaving: every entry point holds the one lock between the two ---- */

enum {
    ANY = 0,
    INITED = 1,       /* after cuInit */
    CONTEXT = 2,      /* with a context current on this thread */
    UNSAFE = 4,       /* may not be called during a capture in global mode */
    EVEN_IF_LOST = 8, /* works after a sticky error: touches no device */
};

CUresult enter(const char *name, unsigned needs);
CUresult leave(CUresult result);
extern __thread int host_func_depth; /* of this thread */
void lock(void);
void unlock(void);
void wait_for_change(void); /* gives up the lock until announce_change */
void announce_change(void);

#define ENTER(needs)                                                                                                  \
    do {                                                                                                              \
        CUresult refused_ = enter(__func__, (needs));                                                                 \
        if (refused_ != CUDA_SUCCESS)                                                                                 \
            return refused_;                                                                                          \
    } while (0)
#define LEAVE(result) return leave(result)

/* faults.c */
CUresult fault_at(const char *name);      /* counts one event of that name; gives the error that is due, if any */
CUresult lost(void);                      /* the sticky error, or CUDA_SUCCESS */
void lose(CUresult error);                /* from now on every call answers this */

/* state.c */
int64_t now_ns(void);
unsigned long thread_id(void);
bool switched_on(const char *variable);
uint64_t number_from(const char *variable, uint64_t otherwise);

/* context.c */
bool inited(void);
CUcontext current_context(void);

/* memory.c: known() is true when all of [at, at + bytes) is live memory of one allocation of ours */
Memory *memory_at(const void *at);
bool known(const void *at, size_t bytes);
bool freed_memory(const void *at, size_t bytes);
void release_memory_of(CUcontext context);

/* stream.c */
extern struct CUstream_st null_stream;
CUstream stream_of(CUstream handle); /* NULL if it is none, is dead, or is of another context */
#define STREAM(handle)                                                                                                \
    CUstream stream = stream_of(handle);                                                                              \
    if (!stream)                                                                                                      \
        LEAVE(CUDA_ERROR_INVALID_HANDLE)
CUresult put(CUstream stream, Op op);
/* Run what is needed so that `stream` has done `number`. With `may_wait` false it returns, not done, rather than wait
 * for another thread that is running an op (that thread may need the caller's GIL). */
bool run_until(CUstream stream, uint64_t number, bool may_wait);
void run_all(CUcontext context, bool may_wait);
CUresult error_of(CUstream stream);
CUresult run_op(Op *op);
void end_streams_of(CUcontext context);
bool leave_capture(CUgraph graph, CUstream origin);

/* graph.c */
CUresult put_captured(CUstream stream, const Op *op);
CUresult capture_forbids(bool null_stream_work); /* and spoils the capture, as the driver does */
CUresult run_graph(CUgraphExec graph);
void drop_graph(CUgraphExec graph);
