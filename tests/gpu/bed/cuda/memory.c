/* Device, pinned, managed and registered memory: one table, guard bytes round each block, and copies that look ranges
 * up in it. A freed block is overwritten and kept for a while, so that a late use is an error and not luck. */
#include "standin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD = 4096, WATCHED = 256, GUARD_BYTE = 0xFD, FRESH = 0xCB, STALE = 0xDD };

static const size_t KEEP_FREED = 64u << 20; /* bytes of freed blocks that are kept */

static Memory *table, *freed, *freed_tail;
static size_t freed_bytes;

/* ---- table ---- */

static bool inside(const Memory *m, const char *at, size_t bytes) {
    return m->base <= at && at + bytes <= m->base + m->bytes;
}

Memory *memory_at(const void *at) {
    for (Memory *m = table; m; m = m->next)
        if (inside(m, at, 1))
            return m;
    return NULL;
}

bool known(const void *at, size_t bytes) {
    Memory *m = memory_at(at);
    return m && inside(m, at, bytes);
}

bool freed_memory(const void *at, size_t bytes) {
    for (Memory *m = freed; m; m = m->next)
        if ((char *)at < m->base + m->bytes && m->base < (char *)at + bytes)
            return true;
    return false;
}

static bool guards_hold(const Memory *m) {
    if (m->kind == REGISTERED)
        return true;
    for (size_t i = 0; i < WATCHED; i++)
        if ((unsigned char)m->base[-1 - (long)i] != GUARD_BYTE || (unsigned char)m->base[m->bytes + i] != GUARD_BYTE)
            return false;
    return true;
}

/* For tests: blocks of live memory past whose ends somebody wrote. */
int standin_overruns(void) {
    lock();
    int n = 0;
    for (Memory *m = table; m; m = m->next)
        n += !guards_hold(m);
    unlock();
    return n;
}

/* For a stand-in of a GPU library: what kind of live memory [at, at + bytes) is (MemoryKind), 0 if none of ours. */
int standin_kind(uint64_t at, uint64_t bytes) {
    lock();
    int kind = known((void *)at, bytes) ? (int)memory_at((void *)at)->kind : 0;
    unlock();
    return kind;
}

static void count_bytes(MemoryKind kind, long long bytes) {
    if (kind == DEVICE || kind == MANAGED) {
        standin_counters.device_live_bytes += (uint64_t)bytes;
        if (standin_counters.device_live_bytes > standin_counters.device_peak_bytes)
            standin_counters.device_peak_bytes = standin_counters.device_live_bytes;
    } else if (kind == PINNED) {
        standin_counters.pinned_live_bytes += (uint64_t)bytes;
        if (standin_counters.pinned_live_bytes > standin_counters.pinned_peak_bytes)
            standin_counters.pinned_peak_bytes = standin_counters.pinned_live_bytes;
    }
}

static CUresult allocate(size_t bytes, MemoryKind kind, unsigned flags, void **at) {
    if (!bytes)
        return CUDA_ERROR_INVALID_VALUE;
    uint64_t used = kind == PINNED ? standin_counters.pinned_live_bytes : standin_counters.device_live_bytes;
    uint64_t most = kind == PINNED ? number_from("STANDIN_PINNED", UINT64_MAX) : number_from("STANDIN_MEMORY", 8ull << 30);
    char *block = NULL;
    if (bytes > most || used > most - bytes || posix_memalign((void **)&block, 4096, bytes + 2 * GUARD))
        return CUDA_ERROR_OUT_OF_MEMORY;
    Memory *m = calloc(1, sizeof *m);
    *m = (Memory){.base = block + GUARD, .bytes = bytes, .kind = kind, .flags = flags, .context = current_context(), .next = table};
    table = m;
    memset(m->base - WATCHED, GUARD_BYTE, WATCHED);
    memset(m->base, FRESH, bytes);
    memset(m->base + bytes, GUARD_BYTE, WATCHED);
    count_bytes(kind, (long long)bytes);
    *at = m->base;
    return CUDA_SUCCESS;
}

static void retire(Memory **link) {
    Memory *m = *link;
    *link = m->next;
    if (!guards_hold(m)) {
        standin_counters.overruns++;
        fprintf(stderr, "stand-in libcuda: somebody wrote past the ends of a block of %zu bytes\n", m->bytes);
    }
    count_bytes(m->kind, -(long long)m->bytes);
    if (m->kind == REGISTERED) { /* the caller's own memory */
        free(m);
        return;
    }
    memset(m->base, STALE, m->bytes);
    m->next = NULL;
    *(freed ? &freed_tail->next : &freed) = m;
    freed_tail = m;
    for (freed_bytes += m->bytes; freed_bytes > KEEP_FREED; ) {
        Memory *oldest = freed;
        freed = oldest->next;
        freed_bytes -= oldest->bytes;
        free(oldest->base - GUARD);
        free(oldest);
    }
}

static CUresult release(void *at, MemoryKind kind, MemoryKind or_kind) {
    run_all(NULL, false); /* a free waits for the device */
    for (Memory **link = &table; *link; link = &(*link)->next)
        if ((*link)->base == at && ((*link)->kind == kind || (*link)->kind == or_kind)) {
            MemoryKind was = (*link)->kind;
            standin_counters.device_frees += was == DEVICE;
            standin_counters.managed_frees += was == MANAGED;
            standin_counters.pinned_frees += was == PINNED;
            retire(link);
            return CUDA_SUCCESS;
        }
    standin_counters.bad_access++;
    return CUDA_ERROR_INVALID_VALUE;
}

void release_memory_of(CUcontext context) {
    for (Memory **link = &table; *link; )
        if ((*link)->context == context && (*link)->kind != REGISTERED) {
            standin_counters.leaked_allocs++;
            retire(link);
        } else {
            link = &(*link)->next;
        }
}

/* ---- entry points: allocation ---- */

CUresult cuMemAlloc(CUdeviceptr *at, size_t bytes) {
    ENTER(CONTEXT | UNSAFE);
    CUresult result = allocate(bytes, DEVICE, 0, (void **)at);
    standin_counters.device_allocs += result == CUDA_SUCCESS;
    LEAVE(result);
}

CUresult cuMemAllocManaged(CUdeviceptr *at, size_t bytes, unsigned flags) {
    ENTER(CONTEXT | UNSAFE);
    CUresult result = allocate(bytes, MANAGED, flags, (void **)at);
    standin_counters.managed_allocs += result == CUDA_SUCCESS;
    LEAVE(result);
}

CUresult cuMemFree(CUdeviceptr at) {
    ENTER(CONTEXT | UNSAFE);
    LEAVE(release((void *)at, DEVICE, MANAGED));
}

CUresult cuMemHostAlloc(void **at, size_t bytes, unsigned flags) {
    ENTER(CONTEXT | UNSAFE);
    CUresult result = allocate(bytes, PINNED, flags, at);
    standin_counters.pinned_allocs += result == CUDA_SUCCESS;
    LEAVE(result);
}

CUresult cuMemAllocHost(void **at, size_t bytes) {
    ENTER(CONTEXT | UNSAFE);
    CUresult result = allocate(bytes, PINNED, 0, at);
    standin_counters.pinned_allocs += result == CUDA_SUCCESS;
    LEAVE(result);
}

CUresult cuMemFreeHost(void *at) {
    ENTER(CONTEXT | UNSAFE);
    LEAVE(release(at, PINNED, PINNED));
}

CUresult cuMemHostRegister(void *at, size_t bytes, unsigned flags) {
    ENTER(CONTEXT | UNSAFE);
    if (!bytes || memory_at(at))
        LEAVE(bytes ? CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED : CUDA_ERROR_INVALID_VALUE);
    Memory *m = calloc(1, sizeof *m);
    *m = (Memory){.base = at, .bytes = bytes, .kind = REGISTERED, .flags = flags, .context = current_context(), .next = table};
    table = m;
    LEAVE(CUDA_SUCCESS);
}

CUresult cuMemHostUnregister(void *at) {
    ENTER(CONTEXT | UNSAFE);
    CUresult result = release(at, REGISTERED, REGISTERED);
    LEAVE(result == CUDA_SUCCESS ? result : CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
}

CUresult cuMemHostGetFlags(unsigned *flags, void *at) {
    ENTER(CONTEXT);
    Memory *m = memory_at(at);
    if (m)
        *flags = m->flags | CU_MEMHOSTALLOC_DEVICEMAP; /* with unified addresses all of it is mapped */
    LEAVE(m ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
}

CUresult cuMemHostGetDevicePointer(CUdeviceptr *device, void *at, unsigned flags) {
    ENTER(CONTEXT);
    Memory *m = memory_at(at);
    if (!m || flags || (m->kind != PINNED && m->kind != REGISTERED))
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    *device = (CUdeviceptr)at;
    LEAVE(CUDA_SUCCESS);
}

CUresult cuMemGetInfo(size_t *unused, size_t *total) {
    ENTER(CONTEXT);
    *total = number_from("STANDIN_MEMORY", 8ull << 30);
    *unused = *total - standin_counters.device_live_bytes;
    LEAVE(CUDA_SUCCESS);
}

CUresult cuMemGetAddressRange(CUdeviceptr *base, size_t *bytes, CUdeviceptr at) {
    ENTER(CONTEXT);
    Memory *m = memory_at((void *)at);
    if (!m)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    if (base)
        *base = (CUdeviceptr)m->base;
    if (bytes)
        *bytes = m->bytes;
    LEAVE(CUDA_SUCCESS);
}
