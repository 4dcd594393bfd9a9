/* Copies and fills, each on a stream (a synchronous one is put on the legacy stream and waited for). */
#include "standin.h"

#include <stdlib.h>
#include <string.h>

/* What one end of a copy is: `device` if the call says so, else host memory, pinned or pageable. */
static CUresult check_end(const void *at, size_t bytes, bool device, bool *is_known) {
    *is_known = known(at, bytes);
    bool bad = device ? !*is_known : !*is_known && (memory_at(at) || freed_memory(at, bytes));
    if (bad)
        standin_counters.bad_access++; /* not ours, freed, or longer than the block it begins in */
    return bad ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

static CUresult copy(void *to, const void *from, size_t bytes, bool to_device, bool from_device, CUstream handle, bool async) {
    CUstream stream = stream_of(handle);
    if (!stream)
        return CUDA_ERROR_INVALID_HANDLE;
    if (!bytes)
        return CUDA_SUCCESS;
    Op op = {.kind = COPY, .to = to, .from = from, .bytes = bytes};
    CUresult result = check_end(to, bytes, to_device, &op.to_known);
    if (result == CUDA_SUCCESS)
        result = check_end(from, bytes, from_device, &op.from_known);
    if (result != CUDA_SUCCESS)
        return result;
    bool pageable = !op.to_known || !op.from_known;
    if (async && pageable) {
        standin_counters.pageable++;
        if (stream->capture) {
            stream->capture->invalid = true;
            return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        }
    }
    if (async && !op.from_known) { /* the driver takes its own copy of a pageable source before it returns */
        op.staged = malloc(bytes);
        memcpy(op.staged, from, bytes);
    }
    result = put(stream, op);
    if (result != CUDA_SUCCESS || (async && op.to_known))
        return result;
    if (!async)
        standin_counters.syncs++;
    run_until(stream, stream->tail ? stream->tail->number : 0, true); /* into pageable memory it returns when all is there */
    return error_of(stream);
}

CUresult cuMemcpyHtoD(CUdeviceptr to, const void *from, size_t bytes) {
    ENTER(CONTEXT);
    LEAVE(copy((void *)to, from, bytes, true, false, NULL, false));
}

CUresult cuMemcpyDtoH(void *to, CUdeviceptr from, size_t bytes) {
    ENTER(CONTEXT);
    LEAVE(copy(to, (void *)from, bytes, false, true, NULL, false));
}

CUresult cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    ENTER(CONTEXT);
    LEAVE(copy((void *)to, (void *)from, bytes, true, true, NULL, false));
}

CUresult cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    ENTER(CONTEXT);
    LEAVE(copy((void *)to, (void *)from, bytes, false, false, NULL, false));
}

CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
    ENTER(CONTEXT);
    LEAVE(copy((void *)to, from, bytes, true, false, stream, true));
}

CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
    ENTER(CONTEXT);
    LEAVE(copy(to, (void *)from, bytes, false, true, stream, true));
}

CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    ENTER(CONTEXT);
    LEAVE(copy((void *)to, (void *)from, bytes, true, true, stream, true));
}

CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    ENTER(CONTEXT);
    LEAVE(copy((void *)to, (void *)from, bytes, false, false, stream, true));
}

/* ---- fills: into device memory they are asynchronous to the host, the one without a stream too ---- */

static CUresult fill(CUdeviceptr to, unsigned value, unsigned width, size_t n, CUstream handle) {
    CUstream stream = stream_of(handle);
    if (!stream)
        return CUDA_ERROR_INVALID_HANDLE;
    if (!n)
        return CUDA_SUCCESS;
    Op op = {.kind = FILL, .to = (char *)to, .bytes = n * width, .value = value, .width = width};
    CUresult result = check_end(op.to, op.bytes, true, &op.to_known);
    return result == CUDA_SUCCESS ? put(stream, op) : result;
}

CUresult cuMemsetD8(CUdeviceptr to, unsigned char value, size_t n) {
    ENTER(CONTEXT);
    LEAVE(fill(to, value, 1, n, NULL));
}

CUresult cuMemsetD16(CUdeviceptr to, unsigned short value, size_t n) {
    ENTER(CONTEXT);
    LEAVE(fill(to, value, 2, n, NULL));
}

CUresult cuMemsetD32(CUdeviceptr to, unsigned value, size_t n) {
    ENTER(CONTEXT);
    LEAVE(fill(to, value, 4, n, NULL));
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t n, CUstream stream) {
    ENTER(CONTEXT);
    LEAVE(fill(to, value, 1, n, stream));
}

CUresult cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t n, CUstream stream) {
    ENTER(CONTEXT);
    LEAVE(fill(to, value, 2, n, stream));
}

CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t n, CUstream stream) {
    ENTER(CONTEXT);
    LEAVE(fill(to, value, 4, n, stream));
}
