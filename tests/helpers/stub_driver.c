// A stand-in for libcuda.so.1, so that all host code of the GPU runs where there is none: memory of the device is memory
// of the processor, copies copy, kernels do nothing. A launch that no device would take is an error, as from a driver.
// Whatever is not here succeeds and does nothing. stub_launches, stub_captured (launches that became part of a graph),
// stub_graphs (graphs launched), stub_allocations and stub_frees count. After stub_watch(n) a launch must have n
// arguments, of which stub_argument(i) is the first 8 bytes of the last launch's.

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 1, NO_MEMORY = 2, NO_CONTEXT = 201, NOT_READY = 600, NOT_IN_CAPTURE = 900 };

typedef unsigned long long address;

static long launches, captured, graphs, allocations, frees;
long stub_launches(void) { return launches; }
long stub_captured(void) { return captured; }
long stub_graphs(void) { return graphs; }
long stub_allocations(void) { return allocations; }
long stub_frees(void) { return frees; }

static int nothing(void) { return OK; }
static char handles[1 << 16];  // contexts, streams, modules and kernels are addresses in it, and no two are equal
static size_t used;
static int make(void **handle) { *handle = handles + (used = (used + 16) % sizeof handles); return OK; }

// The device: one, of compute capability 9.0.

static int version(int *v) { *v = 12090; return OK; }
static int get_device(int *device) { *device = 0; return OK; }
static int ordinal(int *device, int index) { *device = index; return index ? INVALID : OK; }
static int count(int *n) { *n = 1; return OK; }
static int name(char *text, int size, int device) { strncpy(text, "stub", size); return OK; }
static int uuid(char *id, int device) { memset(id, 1, 16); return OK; }
static int total(size_t *bytes, int device) { *bytes = (size_t)1 << 37; return OK; }
static int memory(size_t *unused, size_t *all) { *unused = *all = (size_t)1 << 37; return OK; }
static int attribute(int *value, int which, int device) {
    switch (which) {
    case 1: *value = 1024; break;         // threads per block
    case 5: *value = 2147483647; break;   // blocks along x,
    case 6: case 7: *value = 65535; break;  // y and z
    case 8: *value = 48 << 10; break;     // shared memory per block
    case 10: *value = 32; break;          // warp
    case 16: *value = 132; break;         // multiprocessors
    case 75: *value = 9; break;           // compute capability, major
    case 76: *value = 0; break;           // and minor
    default: *value = 1;
    }
    return OK;
}

// One context, which each thread may push and pop.

static void *the_context = handles;
static _Thread_local void *stack[64];
static _Thread_local int depth;
static int retain(void **context, int device) { *context = the_context; return OK; }
static int current(void **context) { *context = depth ? stack[depth - 1] : NULL; return OK; }
static int set_current(void *context) { depth = context ? (depth ? depth : 1) : 0; if (depth) stack[depth - 1] = context; return OK; }
static int push(void *context) { stack[depth++] = context; return OK; }
static int pop(void **context) { if (!depth) return NO_CONTEXT; depth--; if (context) *context = stack[depth]; return OK; }
static int context_of(void *stream, void **context) { *context = the_context; return OK; }
static int context_id(void *context, address *id) { *id = 1; return OK; }

// Memory.

static int allocate(address *block, size_t size) {
    void *memory;
    if (posix_memalign(&memory, 512, size ? size : 1)) return NO_MEMORY;
    allocations++;
    *block = (address)memory;
    return OK;
}
static int release(address block) { frees++; free((void *)block); return OK; }
static int allocate_host(void **memory, size_t size, unsigned flags) { return posix_memalign(memory, 4096, size) ? NO_MEMORY : OK; }
static int release_host(void *memory) { free(memory); return OK; }
static int capturing;  // what is queued is put into a graph, and does not run
static int copy(address to, address from, size_t size) {
    if (!capturing) memcpy((void *)to, (void *)from, size);
    return OK;
}
static int set(address to, unsigned char value, size_t size) { memset((void *)to, value, size); return OK; }
static int pointer(void *value, int which, address memory) {
    if (which == 1) *(void **)value = the_context;
    if (which == 2) *(unsigned *)value = 2;  // memory of the device
    if (which == 3) *(address *)value = memory;
    if (which == 9) *(int *)value = 0;  // which device
    return OK;
}

// Streams, events, modules and kernels.

static int make_with(void **handle, unsigned flags) { return make(handle); }
static int make_with_priority(void **handle, unsigned flags, int priority) { return make(handle); }
static int elapsed(float *ms, void *from, void *to) { *ms = 1; return OK; }
static int query(void *event) { return NOT_READY; }
static int load(void **module, const void *image) { return make(module); }
static int get_kernel(void **kernel, void *module, const char *named) { return make(kernel); }
static int same(void **to, void *from) { *to = from; return OK; }
static int kernel_attribute(int *value, int which, void *kernel) { *value = which == 0 ? 1024 : 32; return OK; }
static int occupancy(int *blocks, void *kernel, int size, size_t shared) { *blocks = 4; return OK; }
static int synchronize(void *stream) { return capturing ? NOT_IN_CAPTURE : OK; }
static int begin_capture(void *stream, int mode) { capturing = 1; return OK; }
static int is_capturing(void *stream, int *status) { *status = capturing; return OK; }
static int capture_info(void *stream, int *status, address *id, void **graph) {
    *status = capturing;
    if (id) *id = 1;
    return graph ? make(graph) : OK;
}
static int end_capture(void *stream, void **graph) { capturing = 0; return make(graph); }
static int instantiate(void **executable, void *graph) { return make(executable); }
static int launch_graph(void *executable, void *stream) { graphs++; return OK; }
static address arguments_seen[64];
static int watched;
void stub_watch(int n) { watched = n; }
address stub_argument(int i) { return arguments_seen[i]; }
static int launch(const unsigned *grid, void *kernel, void **arguments, void **extra) {  // grid and block begin the struct
    if (!depth) return NO_CONTEXT;
    size_t threads = (size_t)grid[3] * grid[4] * grid[5];
    if (!grid[0] || !grid[1] || !grid[2] || grid[1] > 65535 || grid[2] > 65535 || !threads || threads > 1024) return INVALID;
    *(capturing ? &captured : &launches) += 1;
    for (int i = 0; i < watched; i++) memcpy(&arguments_seen[i], arguments[i], 8);
    return OK;
}
static int error_text(int error, const char **text) { *text = "an error of the stub"; return OK; }

static struct { const char *name; void *function; } table[] = {
    {"cuDriverGetVersion", version}, {"cuDeviceGet", ordinal}, {"cuDeviceGetCount", count}, {"cuDeviceGetName", name},
    {"cuDeviceGetUuid", uuid}, {"cuDeviceTotalMem", total}, {"cuDeviceGetAttribute", attribute},
    {"cuDevicePrimaryCtxRetain", retain}, {"cuCtxGetCurrent", current}, {"cuCtxSetCurrent", set_current},
    {"cuCtxPushCurrent", push}, {"cuCtxPopCurrent", pop}, {"cuCtxGetDevice", get_device}, {"cuCtxGetId", context_id},
    {"cuMemGetInfo", memory}, {"cuMemAlloc", allocate}, {"cuMemFree", release}, {"cuMemHostAlloc", allocate_host},
    {"cuMemAllocHost", allocate_host}, {"cuMemFreeHost", release_host}, {"cuMemcpyHtoD", copy}, {"cuMemcpyDtoH", copy},
    {"cuMemcpyDtoD", copy}, {"cuMemcpyHtoDAsync", copy}, {"cuMemcpyDtoHAsync", copy}, {"cuMemcpyDtoDAsync", copy},
    {"cuMemsetD8", set}, {"cuMemsetD8Async", set}, {"cuPointerGetAttribute", pointer}, {"cuStreamCreate", make_with},
    {"cuStreamCreateWithPriority", make_with_priority}, {"cuStreamGetCtx", context_of}, {"cuEventCreate", make_with},
    {"cuEventElapsedTime", elapsed}, {"cuEventQuery", query}, {"cuModuleLoadDataEx", load}, {"cuLibraryLoadData", load},
    {"cuModuleGetFunction", get_kernel}, {"cuLibraryGetKernel", get_kernel}, {"cuLibraryGetModule", same},
    {"cuKernelGetFunction", same}, {"cuKernelGetLibrary", same}, {"cuFuncGetAttribute", kernel_attribute},
    {"cuKernelGetAttribute", kernel_attribute}, {"cuOccupancyMaxActiveBlocksPerMultiprocessor", occupancy},
    {"cuStreamSynchronize", synchronize}, {"cuStreamBeginCapture", begin_capture},
    {"cuStreamIsCapturing", is_capturing}, {"cuStreamGetCaptureInfo", capture_info},
    {"cuStreamEndCapture", end_capture}, {"cuGraphInstantiateWithParams", instantiate},
    {"cuGraphInstantiateWithFlags", instantiate}, {"cuGraphInstantiate", instantiate}, {"cuGraphLaunch", launch_graph},
    {"cuLaunchKernelEx", launch}, {"cuGetErrorName", error_text}, {"cuGetErrorString", error_text},
};

int cuGetProcAddress_v2(const char *wanted, void **function, int version, address flags, int *status) {
    *function = nothing;
    if (!strncmp(wanted, "cuGetProcAddress", 16)) *function = cuGetProcAddress_v2;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        size_t length = strlen(table[i].name);
        const char *rest = wanted + length;
        if (!strncmp(wanted, table[i].name, length) && (!*rest || !strncmp(rest, "_v", 2))) *function = table[i].function;
    }
    if (status) *status = 0;
    return OK;
}
int cuGetProcAddress(const char *wanted, void **function, int version, address flags) {
    return cuGetProcAddress_v2(wanted, function, version, flags, NULL);
}
int cuInit(unsigned flags) { return OK; }
int cuDriverGetVersion(int *v) { return version(v); }
