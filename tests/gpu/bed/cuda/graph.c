/* Graphs: made by capturing streams, kept in the order of the calls (which is one order that satisfies all edges),
 * instantiated and replayed. Addresses are those of the capture; a buffer freed since is an illegal address. */
#include "standin.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_CAPTURES = 16 };

static CUgraph open_captures[MOST_CAPTURES];
static CUstream capturing_streams[MOST_CAPTURES];
static __thread CUstreamCaptureMode thread_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

static Op *copy_of(const Op *op) {
    Op *mine = malloc(sizeof *mine);
    *mine = *op;
    mine->number = 0;
    mine->next = NULL;
    if (mine->graph)
        mine->graph->references++;
    return mine;
}

static void free_ops(Op *op) {
    while (op) {
        Op *next = op->next;
        if (op->graph)
            drop_graph(op->graph);
        free(op);
        op = next;
    }
}

/* ---- capture ---- */

CUresult put_captured(CUstream stream, const Op *op) {
    CUgraph graph = stream->capture;
    if (graph->invalid)
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    Op *mine = copy_of(op);
    if (op->graph)
        drop_graph(op->graph); /* the reference that the queue would have held */
    *(graph->tail ? &graph->tail->next : &graph->head) = mine;
    graph->tail = mine;
    graph->nodes++;
    stream->captured++;
    if (stream != stream->origin)
        stream->joined = false;
    return CUDA_SUCCESS;
}

CUresult capture_forbids(bool null_stream_work) {
    for (int i = 0; i < MOST_CAPTURES; i++) {
        CUgraph graph = open_captures[i];
        if (!graph)
            continue;
        bool mine = graph->thread == thread_id();
        bool forbidden = null_stream_work ? capturing_streams[i]->blocking
                         : thread_mode != CU_STREAM_CAPTURE_MODE_RELAXED &&
                               ((graph->mode == CU_STREAM_CAPTURE_MODE_GLOBAL && (mine || thread_mode == CU_STREAM_CAPTURE_MODE_GLOBAL)) ||
                                (graph->mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL && mine));
        if (forbidden) {
            graph->invalid = true;
            return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        }
    }
    return CUDA_SUCCESS;
}

CUresult cuStreamBeginCapture(CUstream handle, CUstreamCaptureMode mode) {
    ENTER(CONTEXT);
    CUstream stream = stream_of(handle);
    if (!stream)
        LEAVE(CUDA_ERROR_INVALID_HANDLE);
    if (stream->is_null || stream->capture)
        LEAVE(stream->is_null ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_ERROR_ILLEGAL_STATE);
    for (int i = 0; i < MOST_CAPTURES; i++)
        if (!open_captures[i]) {
            CUgraph graph = calloc(1, sizeof *graph);
            *graph = (struct CUgraph_st){.open = true, .mode = mode, .thread = thread_id()};
            open_captures[i] = stream->capture = graph;
            capturing_streams[i] = stream->origin = stream;
            stream->captured = 0;
            LEAVE(CUDA_SUCCESS);
        }
    LEAVE(CUDA_ERROR_OUT_OF_MEMORY);
}

CUresult cuStreamEndCapture(CUstream handle, CUgraph *made) {
    ENTER(CONTEXT);
    CUstream stream = stream_of(handle);
    if (!stream)
        LEAVE(CUDA_ERROR_INVALID_HANDLE);
    CUgraph graph = stream->capture;
    if (!graph || stream->origin != stream)
        LEAVE(graph ? CUDA_ERROR_STREAM_CAPTURE_UNMATCHED : CUDA_ERROR_ILLEGAL_STATE);
    if (graph->mode != CU_STREAM_CAPTURE_MODE_RELAXED && graph->thread != thread_id())
        LEAVE(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
    for (int i = 0; i < MOST_CAPTURES; i++)
        if (open_captures[i] == graph)
            open_captures[i] = NULL;
    bool all_joined = leave_capture(graph, stream);
    graph->open = false;
    if (graph->invalid || !all_joined) {
        CUresult why = graph->invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
        standin_counters.captures_failed++;
        free_ops(graph->head);
        graph->head = graph->tail = NULL; /* the graph itself is kept: events may still point to it */
        *made = NULL;
        LEAVE(why);
    }
    standin_counters.captures++;
    standin_counters.graphs_live++;
    *made = graph;
    LEAVE(CUDA_SUCCESS);
}

CUresult cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus *status) {
    ENTER(CONTEXT);
    CUstream stream = stream_of(handle);
    if (!stream)
        LEAVE(CUDA_ERROR_INVALID_HANDLE);
    *status = !stream->capture           ? CU_STREAM_CAPTURE_STATUS_NONE
              : stream->capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                         : CU_STREAM_CAPTURE_STATUS_ACTIVE;
    LEAVE(CUDA_SUCCESS);
}

CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode) {
    ENTER(ANY);
    CUstreamCaptureMode was = thread_mode;
    thread_mode = *mode;
    *mode = was;
    LEAVE(CUDA_SUCCESS);
}

/* ---- graphs ---- */

CUresult cuGraphGetNodes(CUgraph graph, CUgraphNode *nodes, size_t *n) {
    ENTER(ANY);
    if (!graph || nodes) /* only their number is to be had here */
        LEAVE(graph ? CUDA_ERROR_NOT_SUPPORTED : CUDA_ERROR_INVALID_VALUE);
    *n = graph->nodes;
    LEAVE(CUDA_SUCCESS);
}

static CUresult instantiate(CUgraphExec *made, CUgraph graph) {
    if (!graph)
        return CUDA_ERROR_INVALID_VALUE;
    CUgraphExec exec = calloc(1, sizeof *exec);
    exec->references = 1;
    Op **end = &exec->head;
    for (Op *op = graph->head; op; op = op->next, end = &(*end)->next)
        *end = copy_of(op);
    standin_counters.graph_execs_live++;
    *made = exec;
    return CUDA_SUCCESS;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph, unsigned long long flags) {
    (void)flags;
    ENTER(CONTEXT);
    LEAVE(instantiate(exec, graph));
}

CUresult cuGraphInstantiateWithParams(CUgraphExec *exec, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS *params) {
    ENTER(CONTEXT);
    CUresult result = instantiate(exec, graph);
    params->result_out = result == CUDA_SUCCESS ? CUDA_GRAPH_INSTANTIATE_SUCCESS : CUDA_GRAPH_INSTANTIATE_ERROR;
    LEAVE(result);
}

CUresult cuGraphDestroy(CUgraph graph) {
    ENTER(ANY);
    if (!graph || graph->open)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    free_ops(graph->head);
    graph->head = graph->tail = NULL;
    standin_counters.graphs_live--;
    LEAVE(CUDA_SUCCESS);
}

CUresult cuGraphUpload(CUgraphExec exec, CUstream stream) {
    ENTER(CONTEXT);
    LEAVE(exec && stream_of(stream) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE);
}

CUresult cuGraphLaunch(CUgraphExec exec, CUstream handle) {
    ENTER(CONTEXT);
    CUstream stream = stream_of(handle);
    if (!exec || !stream)
        LEAVE(CUDA_ERROR_INVALID_HANDLE);
    exec->references++;
    CUresult result = put(stream, (Op){.kind = GRAPH, .graph = exec});
    if (result != CUDA_SUCCESS) {
        exec->references--;
        LEAVE(result);
    }
    if (!stream->capture)
        for (Op *op = exec->head; op; op = op->next)
            if (op->kind == RECORD) {
                op->event->recorded = true;
                op->event->capture = NULL;
                op->event->stream = stream;
                op->event->number = stream->tail->number;
            }
    standin_counters.graph_launches++;
    LEAVE(CUDA_SUCCESS);
}

CUresult run_graph(CUgraphExec exec) {
    for (Op *op = exec->head; op; op = op->next) {
        CUresult result = run_op(op);
        if (result != CUDA_SUCCESS)
            return result;
    }
    return CUDA_SUCCESS;
}

void drop_graph(CUgraphExec exec) {
    if (--exec->references)
        return;
    free_ops(exec->head);
    free(exec);
    standin_counters.graph_execs_live--;
}

CUresult cuGraphExecDestroy(CUgraphExec exec) {
    ENTER(ANY);
    if (!exec)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    drop_graph(exec); /* a launch in a queue keeps it until that has run */
    LEAVE(CUDA_SUCCESS);
}
