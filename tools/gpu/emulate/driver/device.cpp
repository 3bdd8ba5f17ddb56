// The device, its one context, and errors.
#include "driver.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct CUctx_st {};

namespace fake {
namespace {
std::recursive_mutex one_at_a_time;
bool ready = false;
CUctx_st primary;
thread_local CUcontext current = nullptr;
}  // namespace

// FISEC_EMULATED_CAPABILITY=8.0 makes programs choose what they would on such a GPU.
int capability(bool major) {
  const char* wanted = getenv("FISEC_EMULATED_CAPABILITY");
  if (!wanted) return major ? 9 : 0;
  const char* point = strchr(wanted, '.');
  return major ? atoi(wanted) : point ? atoi(point + 1) : 0;
}

CUresult broken = CUDA_SUCCESS;

Call::Call(bool needs_context) : lock(one_at_a_time) {
  status = !ready ? CUDA_ERROR_NOT_INITIALIZED : broken ? broken : needs_context && !current ? CUDA_ERROR_INVALID_CONTEXT : CUDA_SUCCESS;
}

CUresult fail(CUresult status, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("emulated GPU: ", stderr);
  vfprintf(stderr, format, arguments);
  fputs("\n", stderr);
  va_end(arguments);
  return status;
}
}  // namespace fake

using namespace fake;
CUresult cuInit(unsigned) {
  std::lock_guard<std::recursive_mutex> lock(one_at_a_time);
  if (!ready) explain_faults();
  ready = true;
  return CUDA_SUCCESS;
}
CUresult cuDriverGetVersion(int* version) { return *version = CUDA_VERSION, CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int* count) {
  ENTER_WITHOUT_CONTEXT;
  return *count = 1, CUDA_SUCCESS;
}
CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  ENTER_WITHOUT_CONTEXT;
  return ordinal ? CUDA_ERROR_INVALID_DEVICE : (*device = 0, CUDA_SUCCESS);
}
CUresult cuDeviceGetName(char* name, int room, CUdevice) {
  ENTER_WITHOUT_CONTEXT;
  return snprintf(name, room, "emulated GPU"), CUDA_SUCCESS;
}
CUresult cuDeviceGetUuid(CUuuid* out, CUdevice) {
  ENTER_WITHOUT_CONTEXT;
  return memcpy(out->bytes, "fisec emulation", 16), CUDA_SUCCESS;
}
CUresult cuDeviceTotalMem(size_t* bytes, CUdevice) {
  ENTER_WITHOUT_CONTEXT;
  return *bytes = size_t(80) << 30, CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int* out, CUdevice_attribute attribute, CUdevice) {
  ENTER_WITHOUT_CONTEXT;
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *out = capability(true); break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *out = capability(false); break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *out = 132; break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *out = 1024; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *out = 32; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: *out = 48 << 10; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *out = 227 << 10; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: *out = 228 << 10; break;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: *out = 50 << 20; break;
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
    case CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH: *out = 1; break;
    case CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY:
    case CU_DEVICE_ATTRIBUTE_INTEGRATED: *out = 0; break;
    default: return fail(CUDA_ERROR_NOT_SUPPORTED, "device attribute %d", attribute);
  }
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext* out, CUdevice device) {
  ENTER_WITHOUT_CONTEXT;
  return device ? CUDA_ERROR_INVALID_DEVICE : (*out = &primary, CUDA_SUCCESS);
}
CUresult cuDevicePrimaryCtxRelease(CUdevice) {
  ENTER_WITHOUT_CONTEXT;
  return drain_all();
}
CUresult cuCtxSetCurrent(CUcontext context) {
  ENTER_WITHOUT_CONTEXT;
  if (context && context != &primary) return CUDA_ERROR_INVALID_CONTEXT;
  return current = context, CUDA_SUCCESS;
}
CUresult cuCtxGetCurrent(CUcontext* out) {
  ENTER_WITHOUT_CONTEXT;
  return *out = current, CUDA_SUCCESS;
}
CUresult cuCtxGetDevice(CUdevice* out) {
  ENTER;
  return *out = 0, CUDA_SUCCESS;
}
CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  ENTER;
  return *least = *greatest = 0, CUDA_SUCCESS;
}
CUresult cuCtxSynchronize(void) {
  ENTER_UNSAFE;
  return drain_all();
}

static const char* name_of(CUresult status) {
#define NAME(E) case E: return #E
  switch (status) {
    NAME(CUDA_SUCCESS);
    NAME(CUDA_ERROR_INVALID_VALUE);
    NAME(CUDA_ERROR_OUT_OF_MEMORY);
    NAME(CUDA_ERROR_NOT_INITIALIZED);
    NAME(CUDA_ERROR_INVALID_DEVICE);
    NAME(CUDA_ERROR_INVALID_IMAGE);
    NAME(CUDA_ERROR_NO_BINARY_FOR_GPU);
    NAME(CUDA_ERROR_INVALID_CONTEXT);
    NAME(CUDA_ERROR_INVALID_HANDLE);
    NAME(CUDA_ERROR_ILLEGAL_STATE);
    NAME(CUDA_ERROR_NOT_FOUND);
    NAME(CUDA_ERROR_NOT_READY);
    NAME(CUDA_ERROR_ILLEGAL_ADDRESS);
    NAME(CUDA_ERROR_LAUNCH_TIMEOUT);
    NAME(CUDA_ERROR_NOT_SUPPORTED);
    NAME(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    NAME(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    NAME(CUDA_ERROR_STREAM_CAPTURE_MERGE);
    NAME(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    NAME(CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    NAME(CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    NAME(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    default: return nullptr;
  }
}
CUresult cuGetErrorName(CUresult status, const char** out) {
  *out = name_of(status);
  return *out ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuGetErrorString(CUresult status, const char** out) { return cuGetErrorName(status, out); }
