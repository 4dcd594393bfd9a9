/* Events: marks in a queue, to wait for on the host, on another stream, or across streams inside a capture. */
#include "standin.h"

#include <stdlib.h>

static CUevent events; /* all that ever were, as with streams */

static CUevent event_of(CUevent handle) {
    for (CUevent e = events; e; e = e->next)
        if (e == handle)
            return e->dead ? NULL : e;
    return NULL;
}

#define EVENT(handle)                                                                                                 \
    CUevent event = event_of(handle);                                                                                 \
    if (!event)                                                                                                       \
        LEAVE(CUDA_ERROR_INVALID_HANDLE)

static bool reached(CUevent event) { return !event->stream || event->stream->done >= event->number; }

CUresult cuEventCreate(CUevent *handle, unsigned flags) {
    ENTER(CONTEXT);
    CUevent e = calloc(1, sizeof *e);
    *e = (struct CUevent_st){.context = current_context(), .flags = flags, .next = events};
    events = *handle = e;
    standin_counters.events_live++;
    LEAVE(CUDA_SUCCESS);
}

CUresult cuEventDestroy(CUevent handle) {
    ENTER(ANY);
    EVENT(handle);
    event->dead = true;
    standin_counters.events_live--;
    LEAVE(CUDA_SUCCESS);
}

static CUresult record(CUevent event, CUstream stream, unsigned flags) {
    bool external = flags & CU_EVENT_RECORD_EXTERNAL;
    if (stream->capture && !external) { /* no work, only an edge: whoever waits for it joins the capture */
        event->capture = stream->capture;
        event->stream = stream;
        event->captured = stream->captured;
        return stream->capture->invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS;
    }
    CUresult result = put(stream, (Op){.kind = RECORD, .event = event});
    if (result == CUDA_SUCCESS && !stream->capture) {
        event->capture = NULL;
        event->recorded = true;
        event->stream = stream;
        event->number = stream->tail->number;
    }
    return result;
}

CUresult cuEventRecord(CUevent handle, CUstream on) {
    ENTER(CONTEXT);
    EVENT(handle);
    STREAM(on);
    LEAVE(record(event, stream, 0));
}

CUresult cuEventRecordWithFlags(CUevent handle, CUstream on, unsigned flags) {
    ENTER(CONTEXT);
    EVENT(handle);
    STREAM(on);
    LEAVE(record(event, stream, flags));
}

CUresult cuStreamWaitEvent(CUstream handle, CUevent what, unsigned flags) {
    (void)flags;
    ENTER(CONTEXT);
    STREAM(handle);
    EVENT(what);
    if (event->capture) {
        if (stream->is_null || !event->capture->open)
            LEAVE(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
        if (!stream->capture) {
            stream->capture = event->capture;
            stream->origin = event->stream->origin;
            stream->captured = 0;
        }
        if (stream->capture != event->capture) {
            stream->capture->invalid = event->capture->invalid = true;
            LEAVE(CUDA_ERROR_STREAM_CAPTURE_MERGE);
        }
        if (event->stream->captured == event->captured)
            event->stream->joined = true;
        if (stream != stream->origin)
            stream->joined = false;
        LEAVE(CUDA_SUCCESS);
    }
    if (stream->capture) { /* a captured stream may not depend on work outside */
        stream->capture->invalid = true;
        LEAVE(CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    }
    if (reached(event))
        LEAVE(CUDA_SUCCESS);
    LEAVE(put(stream, (Op){.kind = WAIT, .other = event->stream, .other_number = event->number}));
}

CUresult cuEventSynchronize(CUevent handle) {
    ENTER(CONTEXT);
    EVENT(handle);
    if (event->capture)
        LEAVE(CUDA_ERROR_CAPTURED_EVENT);
    standin_counters.syncs++;
    if (!event->stream)
        LEAVE(CUDA_SUCCESS);
    run_until(event->stream, event->number, true);
    LEAVE(error_of(event->stream));
}

CUresult cuEventQuery(CUevent handle) {
    ENTER(CONTEXT);
    EVENT(handle);
    if (event->capture)
        LEAVE(CUDA_ERROR_CAPTURED_EVENT);
    standin_counters.queries++;
    if (reached(event))
        LEAVE(event->stream ? error_of(event->stream) : CUDA_SUCCESS);
    run_until(event->stream, event->number, false);
    LEAVE(lost() == CUDA_SUCCESS ? CUDA_ERROR_NOT_READY : lost());
}

static CUresult elapsed(float *ms, CUevent a, CUevent b) {
    if (!a || !b || !a->recorded || !b->recorded || (a->flags | b->flags) & CU_EVENT_DISABLE_TIMING)
        return CUDA_ERROR_INVALID_HANDLE;
    if (!reached(a) || !reached(b))
        return CUDA_ERROR_NOT_READY;
    *ms = (float)((double)(b->time_ns - a->time_ns) / 1e6);
    return CUDA_SUCCESS;
}

#undef cuEventElapsedTime
#undef cuEventElapsedTime_v2
CUresult cuEventElapsedTime(float *ms, CUevent from, CUevent to) {
    ENTER(CONTEXT);
    LEAVE(elapsed(ms, event_of(from), event_of(to)));
}

CUresult cuEventElapsedTime_v2(float *ms, CUevent from, CUevent to) {
    ENTER(CONTEXT);
    LEAVE(elapsed(ms, event_of(from), event_of(to)));
}
