/* Streams: queues of work that run when somebody waits, and host functions. */
#include "standin.h"

#include <stdlib.h>
#include <string.h>

struct CUstream_st null_stream = {.is_null = true, .blocking = true};

static CUstream streams = &null_stream; /* all that ever were: a handle stays safe to look at after its end */
static uint64_t numbers;

__thread int host_func_depth;
static __thread CUresult host_func_result;

/* ---- running ---- */

/* For a stand-in of a GPU library, from inside a host function: what it does there went wrong as a kernel would. */
void standin_fail(int code, int sticky) {
    host_func_result = (CUresult)code;
    if (sticky)
        lose((CUresult)code);
}

static CUresult run_host_func(Op *op) {
    int64_t began = now_ns();
    unlock(); /* it may need the GIL, which a thread that waits for our lock may hold */
    host_func_depth++;
    host_func_result = CUDA_SUCCESS;
    op->function(op->argument);
    CUresult result = host_func_result;
    host_func_depth--;
    lock();
    standin_counters.host_funcs++;
    standin_counters.host_func_ns += (uint64_t)(now_ns() - began);
    return result;
}

static CUresult run_copy(Op *op) {
    if ((op->to_known && !known(op->to, op->bytes)) || (op->from_known && !known(op->from, op->bytes))) {
        standin_counters.bad_access++; /* freed since it was put there, or a graph that outlived its buffers */
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    }
    int64_t began = now_ns();
    if (op->kind == COPY)
        memmove(op->to, op->staged ? op->staged : op->from, op->bytes);
    else
        for (size_t i = 0; i < op->bytes; i += op->width)
            memcpy(op->to + i, &op->value, op->width);
    standin_counters.copy_ns += (uint64_t)(now_ns() - began);
    if (op->kind == FILL) {
        standin_counters.fills++;
        return CUDA_SUCCESS;
    }
    Memory *to = memory_at(op->to), *from = op->staged ? NULL : memory_at(op->from);
    bool to_device = to && (to->kind == DEVICE || to->kind == MANAGED);
    bool from_device = from && (from->kind == DEVICE || from->kind == MANAGED);
    if (to_device && from_device)
        standin_counters.d2d++, standin_counters.d2d_bytes += op->bytes;
    else if (to_device)
        standin_counters.h2d++, standin_counters.h2d_bytes += op->bytes;
    else if (from_device)
        standin_counters.d2h++, standin_counters.d2h_bytes += op->bytes;
    return CUDA_SUCCESS;
}

static void run_record(Op *op) {
    if (op->event->number <= op->number || op->number == 0) /* 0: an external record inside a graph */
        op->event->time_ns = now_ns();
}

/* Called with the lock, which it gives up while a fault sleeps or a host function runs. */
CUresult run_op(Op *op) {
    static const char *const names[] = {[COPY] = "copy", [FILL] = "fill", [HOST_FUNC] = "host", [GRAPH] = "graph"};
    if (op->kind == RECORD) {
        run_record(op);
        return CUDA_SUCCESS;
    }
    if (op->kind == WAIT)
        return CUDA_SUCCESS; /* the caller has seen to it */
    unlock();
    CUresult fault = fault_at(names[op->kind]), any = fault_at("op");
    lock();
    standin_counters.ops_run++;
    if (lost() != CUDA_SUCCESS || fault != CUDA_SUCCESS || any != CUDA_SUCCESS)
        return lost() ? lost() : fault ? fault : any;
    switch (op->kind) {
    case HOST_FUNC: return run_host_func(op);
    case GRAPH: return run_graph(op->graph);
    default: return run_copy(op);
    }
}

static void forget(Op *op) {
    free(op->staged);
    if (op->graph)
        drop_graph(op->graph);
    free(op);
}

static bool older_work_done(CUstream stream, uint64_t number, bool may_wait) {
    if (!stream->blocking)
        return true;
    if (!stream->is_null) /* the legacy stream comes before what was put later on a blocking one, and the other way round */
        return run_until(&null_stream, number - 1, may_wait);
    bool done = true;
    for (CUstream s = streams; s; s = s->next)
        if (s->blocking && !s->is_null)
            done &= run_until(s, number - 1, may_wait);
    return done;
}

bool run_until(CUstream stream, uint64_t number, bool may_wait) {
    for (;;) {
        if (stream->busy) {
            if (stream->head->number > number)
                return true;
            if (!may_wait || host_func_depth) /* a host function that waits would wait for itself */
                return false;
            wait_for_change();
            continue;
        }
        Op *op = stream->head;
        if (!op || op->number > number)
            return true;
        stream->busy = true;
        bool ready = older_work_done(stream, op->number, may_wait);
        if (ready && op->kind == WAIT)
            ready = run_until(op->other, op->other_number, may_wait);
        if (!ready) {
            stream->busy = false;
            announce_change();
            return false;
        }
        CUresult result = lost() == CUDA_SUCCESS ? run_op(op) : lost(); /* nothing runs in a lost context */
        if (result == CUDA_ERROR_ILLEGAL_ADDRESS)
            lose(result);
        else if (result != CUDA_SUCCESS && lost() == CUDA_SUCCESS)
            stream->error = result;
        stream->busy = false;
        stream->done = op->number;
        stream->head = op->next;
        if (!stream->head)
            stream->tail = NULL;
        forget(op);
        announce_change();
    }
}

void run_all(CUcontext context, bool may_wait) {
    for (CUstream s = streams; s; s = s->next)
        if (!s->dead && (s->is_null || !context || s->context == context))
            run_until(s, UINT64_MAX, may_wait);
}

/* The error that a wait on `stream` (NULL: on all) has to tell, once if it is not sticky. */
CUresult error_of(CUstream stream) {
    CUresult error = lost();
    for (CUstream s = streams; s && error == CUDA_SUCCESS; s = s->next)
        if ((!stream || s == stream) && s->error != CUDA_SUCCESS) {
            error = s->error;
            s->error = CUDA_SUCCESS;
        }
    return error;
}

CUresult put(CUstream stream, Op op) {
    if (stream->capture)
        return put_captured(stream, &op);
    if (stream->is_null && capture_forbids(true) != CUDA_SUCCESS) {
        free(op.staged);
        return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    }
    Op *mine = malloc(sizeof *mine);
    *mine = op;
    mine->number = ++numbers;
    mine->next = NULL;
    *(stream->tail ? &stream->tail->next : &stream->head) = mine;
    stream->tail = mine;
    return CUDA_SUCCESS;
}

/* The capture is over: every stream that joined it is free again. Returns whether all had joined their origin. */
bool leave_capture(CUgraph graph, CUstream origin) {
    bool all_joined = true;
    for (CUstream s = streams; s; s = s->next)
        if (s->capture == graph) {
            all_joined &= s == origin || s->joined;
            s->capture = NULL;
            s->origin = NULL;
        }
    return all_joined;
}

/* ---- streams ---- */

CUstream stream_of(CUstream handle) {
    if (!handle || handle == CU_STREAM_LEGACY || handle == CU_STREAM_PER_THREAD)
        return &null_stream;
    for (CUstream s = streams; s; s = s->next)
        if (s == handle)
            return s->dead || s->context != current_context() ? NULL : s;
    return NULL;
}

static CUresult make_stream(CUstream *handle, unsigned flags) {
    if (flags & ~(unsigned)CU_STREAM_NON_BLOCKING)
        return CUDA_ERROR_INVALID_VALUE;
    CUstream s = calloc(1, sizeof *s);
    *s = (struct CUstream_st){.context = current_context(), .blocking = !(flags & CU_STREAM_NON_BLOCKING), .next = streams};
    streams = *handle = s;
    standin_counters.streams_live++;
    return CUDA_SUCCESS;
}

CUresult cuStreamCreate(CUstream *handle, unsigned flags) {
    ENTER(CONTEXT);
    LEAVE(make_stream(handle, flags));
}

CUresult cuStreamCreateWithPriority(CUstream *handle, unsigned flags, int priority) {
    (void)priority;
    ENTER(CONTEXT);
    LEAVE(make_stream(handle, flags));
}

static void end_stream(CUstream s) {
    s->dead = true;
    standin_counters.streams_live--;
}

void end_streams_of(CUcontext context) {
    for (CUstream s = streams; s; s = s->next)
        if (s->context == context && !s->dead && !s->is_null)
            end_stream(s);
}

CUresult cuStreamDestroy(CUstream handle) {
    ENTER(CONTEXT);
    STREAM(handle);
    if (stream->is_null || stream->capture)
        LEAVE(stream->capture ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_ERROR_INVALID_HANDLE);
    run_until(stream, UINT64_MAX, false); /* what is queued still runs, as on a device */
    end_stream(stream);
    LEAVE(CUDA_SUCCESS);
}

CUresult cuStreamSynchronize(CUstream handle) {
    ENTER(CONTEXT);
    STREAM(handle);
    if (stream->capture) {
        stream->capture->invalid = true;
        LEAVE(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    }
    standin_counters.syncs++;
    run_until(stream, stream->tail ? stream->tail->number : 0, true);
    LEAVE(error_of(stream));
}

/* Work makes progress when it is asked for, after the answer: a loop of queries ends, a single one proves nothing. */
CUresult cuStreamQuery(CUstream handle) {
    ENTER(CONTEXT);
    STREAM(handle);
    if (stream->capture) {
        stream->capture->invalid = true;
        LEAVE(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    }
    standin_counters.queries++;
    if (!stream->head)
        LEAVE(error_of(stream));
    run_until(stream, stream->tail->number, false);
    LEAVE(lost() == CUDA_SUCCESS ? CUDA_ERROR_NOT_READY : lost());
}

CUresult cuStreamGetFlags(CUstream handle, unsigned *flags) {
    ENTER(CONTEXT);
    STREAM(handle);
    *flags = stream->blocking ? CU_STREAM_DEFAULT : CU_STREAM_NON_BLOCKING;
    LEAVE(CUDA_SUCCESS);
}

CUresult cuStreamGetCtx(CUstream handle, CUcontext *context) {
    ENTER(CONTEXT);
    STREAM(handle);
    *context = stream->is_null ? current_context() : stream->context;
    LEAVE(CUDA_SUCCESS);
}

CUresult cuLaunchHostFunc(CUstream handle, CUhostFn function, void *argument) {
    ENTER(CONTEXT);
    STREAM(handle);
    LEAVE(put(stream, (Op){.kind = HOST_FUNC, .function = function, .argument = argument}));
}
