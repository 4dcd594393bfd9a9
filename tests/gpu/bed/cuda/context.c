/* Initialisation, the one device, and contexts: the primary one and others, a stack of them per thread. */
#include "standin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEEPEST = 32, DRIVER_VERSION = 13000 };

static bool is_inited;
static struct CUctx_st primary = {.primary = true, .dead = true};
static __thread CUcontext stack[DEEPEST];
static __thread int depth;

bool inited(void) { return is_inited; }
CUcontext current_context(void) { return depth ? stack[depth - 1] : NULL; }

CUresult cuInit(unsigned flags) {
    ENTER(ANY);
    if (flags)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    if (switched_on("STANDIN_NO_DEVICE"))
        LEAVE(CUDA_ERROR_NO_DEVICE);
    is_inited = true;
    LEAVE(CUDA_SUCCESS);
}

CUresult cuDriverGetVersion(int *version) {
    ENTER(ANY | EVEN_IF_LOST);
    *version = DRIVER_VERSION;
    LEAVE(CUDA_SUCCESS);
}

CUresult cuDeviceGetCount(int *n) {
    ENTER(INITED | EVEN_IF_LOST);
    *n = 1;
    LEAVE(CUDA_SUCCESS);
}

CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    ENTER(INITED | EVEN_IF_LOST);
    *device = 0;
    LEAVE(ordinal == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE);
}

CUresult cuDeviceGetName(char *name, int size, CUdevice device) {
    ENTER(INITED | EVEN_IF_LOST);
    snprintf(name, (size_t)size, "Stand-in (no GPU)");
    LEAVE(device == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE);
}

CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device) {
    ENTER(INITED | EVEN_IF_LOST);
    memcpy(uuid->bytes, "stand-in device\0", sizeof uuid->bytes);
    LEAVE(device == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE);
}

CUresult cuDeviceGetPCIBusId(char *id, int size, CUdevice device) {
    ENTER(INITED | EVEN_IF_LOST);
    snprintf(id, (size_t)size, "0000:00:00.0");
    LEAVE(device == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE);
}

CUresult cuDeviceTotalMem(size_t *bytes, CUdevice device) {
    ENTER(INITED | EVEN_IF_LOST);
    *bytes = number_from("STANDIN_MEMORY", 8ull << 30);
    LEAVE(device == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE);
}

CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice device) {
    ENTER(INITED | EVEN_IF_LOST);
    *major = 8, *minor = 6;
    LEAVE(device == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE);
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
    ENTER(INITED | EVEN_IF_LOST);
    if (device != 0)
        LEAVE(CUDA_ERROR_INVALID_DEVICE);
    switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = 1024; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 4; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 8; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = 6; break;
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT: *value = switched_on("STANDIN_INTEGRATED") ? 1 : 2; break;
    case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY:
    case CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM: *value = 1; break;
    case CU_DEVICE_ATTRIBUTE_INTEGRATED: *value = switched_on("STANDIN_INTEGRATED"); break;
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS:
    case CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS:
    case CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES:
        *value = switched_on("STANDIN_COHERENT");
        break;
    default: *value = 0;
    }
    LEAVE(CUDA_SUCCESS);
}

/* ---- contexts ---- */

static void end(CUcontext context) {
    run_all(context, false);
    end_streams_of(context);
    release_memory_of(context);
    context->dead = true;
    standin_counters.contexts_live--;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    ENTER(INITED);
    if (device != 0)
        LEAVE(CUDA_ERROR_INVALID_DEVICE);
    if (primary.references++ == 0) {
        primary.dead = false;
        standin_counters.contexts_live++;
    }
    *context = &primary;
    LEAVE(CUDA_SUCCESS);
}

CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
    ENTER(INITED | EVEN_IF_LOST);
    if (device != 0 || primary.references == 0)
        LEAVE(device ? CUDA_ERROR_INVALID_DEVICE : CUDA_ERROR_INVALID_CONTEXT);
    if (--primary.references == 0)
        end(&primary);
    LEAVE(CUDA_SUCCESS);
}

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) {
    ENTER(INITED | EVEN_IF_LOST);
    *flags = primary.flags, *active = !primary.dead;
    LEAVE(device == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE);
}

CUresult cuDevicePrimaryCtxSetFlags(CUdevice device, unsigned flags) {
    ENTER(INITED);
    primary.flags = flags;
    LEAVE(device == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE);
}

static CUresult push(CUcontext context) {
    if (!context || context->dead)
        return context ? CUDA_ERROR_CONTEXT_IS_DESTROYED : CUDA_ERROR_INVALID_CONTEXT;
    if (depth == DEEPEST)
        return CUDA_ERROR_INVALID_VALUE;
    stack[depth++] = context;
    return CUDA_SUCCESS;
}

static CUresult create(CUcontext *context, unsigned flags, CUdevice device) {
    if (device != 0)
        return CUDA_ERROR_INVALID_DEVICE;
    *context = calloc(1, sizeof **context);
    (*context)->flags = flags;
    standin_counters.contexts_live++;
    return push(*context);
}

#undef cuCtxCreate
#undef cuCtxCreate_v2
CUresult cuCtxCreate_v2(CUcontext *context, unsigned flags, CUdevice device) {
    ENTER(INITED);
    LEAVE(create(context, flags, device));
}

CUresult cuCtxCreate_v4(CUcontext *context, CUctxCreateParams *params, unsigned flags, CUdevice device) {
    (void)params;
    ENTER(INITED);
    LEAVE(create(context, flags, device));
}

CUresult cuCtxDestroy(CUcontext context) {
    ENTER(INITED | EVEN_IF_LOST);
    if (!context || context->dead || context->primary)
        LEAVE(CUDA_ERROR_INVALID_CONTEXT);
    end(context);
    if (current_context() == context)
        depth--;
    LEAVE(CUDA_SUCCESS);
}

/* Push and pop touch no device: they work after a sticky error too, and code must be able to rely on the pop, since a
 * thread that ends with a context of PyCUDA's pushed aborts the process. */
CUresult cuCtxPushCurrent(CUcontext context) {
    ENTER(INITED | EVEN_IF_LOST);
    LEAVE(push(context));
}

CUresult cuCtxPopCurrent(CUcontext *context) {
    ENTER(INITED | EVEN_IF_LOST);
    if (!depth)
        LEAVE(CUDA_ERROR_INVALID_CONTEXT);
    depth--;
    if (context)
        *context = stack[depth];
    LEAVE(CUDA_SUCCESS);
}

CUresult cuCtxSetCurrent(CUcontext context) {
    ENTER(INITED | EVEN_IF_LOST);
    if (depth)
        depth--;
    LEAVE(context ? push(context) : CUDA_SUCCESS);
}

CUresult cuCtxGetCurrent(CUcontext *context) {
    ENTER(INITED | EVEN_IF_LOST);
    *context = current_context();
    LEAVE(CUDA_SUCCESS);
}

CUresult cuCtxGetDevice(CUdevice *device) {
    ENTER(CONTEXT | EVEN_IF_LOST);
    *device = 0;
    LEAVE(CUDA_SUCCESS);
}

CUresult cuCtxGetFlags(unsigned *flags) {
    ENTER(CONTEXT);
    *flags = current_context()->flags;
    LEAVE(CUDA_SUCCESS);
}

CUresult cuCtxGetApiVersion(CUcontext context, unsigned *version) {
    (void)context;
    ENTER(INITED | EVEN_IF_LOST);
    *version = DRIVER_VERSION;
    LEAVE(CUDA_SUCCESS);
}

CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    ENTER(CONTEXT);
    if (least)
        *least = 0;
    if (greatest)
        *greatest = -5;
    LEAVE(CUDA_SUCCESS);
}

CUresult cuCtxSynchronize(void) {
    ENTER(CONTEXT | UNSAFE);
    standin_counters.syncs++;
    run_all(current_context(), true);
    LEAVE(error_of(NULL));
}

CUresult cuProfilerStart(void) { return CUDA_SUCCESS; }
CUresult cuProfilerStop(void) { return CUDA_SUCCESS; }
