// Device and pinned memory: poisoned when new, the end at a page that must not be touched, device memory shut to the host.
#include "driver.h"
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <stdio.h>

namespace fake {
namespace {
constexpr size_t kPage = 4096, kAlignment = 256;  // what cuMemAlloc promises
constexpr int kPoison = 0xff;                     // NaN in f16 and f32, -1 as an index
std::map<uintptr_t, Allocation> allocations;      // by the address given out
int openings = 0;
size_t device_total = 0;

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }
void set_access(int protection) {
  for (auto& [address, a] : allocations)
    if (a.kind == Kind::kDevice) mprotect(a.mapped, a.mapped_bytes, protection);
}

void on_fault(int number, siginfo_t* info, void*) {
  uintptr_t at = reinterpret_cast<uintptr_t>(info->si_addr);
  dprintf(2, "emulated GPU: invalid access to %p", info->si_addr);
  for (auto& [address, a] : allocations) {
    uintptr_t begin = reinterpret_cast<uintptr_t>(a.mapped);
    if (at < begin || at >= begin + a.mapped_bytes + kPage) continue;
    long offset = long(at - address);
    dprintf(2, ", byte %ld of an allocation of %zu bytes in %s memory", offset, a.bytes, a.kind == Kind::kDevice ? "device" : "pinned");
  }
  int place[4];
  if (running) where(place), dprintf(2, ", by %s, block (%d, %d, %d), thread %d\n", running, place[0], place[1], place[2], place[3]);
  else dprintf(2, ", by the host%s\n", openings ? " or a copy" : "; device memory is out of its reach");
  signal(number, SIG_DFL);  // the instruction runs again and ends the process
}
}  // namespace

void explain_faults() {
  struct sigaction action = {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, nullptr);
}

Opened::Opened() {
  if (openings++ == 0) set_access(PROT_READ | PROT_WRITE);
}
Opened::~Opened() {
  if (--openings == 0) set_access(PROT_NONE);
}

const Allocation* find(const void* address, size_t bytes, Kind kind) {
  auto next = allocations.upper_bound(reinterpret_cast<uintptr_t>(address));
  if (next == allocations.begin()) return nullptr;
  auto& [begin, a] = *std::prev(next);
  return a.kind == kind && reinterpret_cast<uintptr_t>(address) + bytes <= begin + a.bytes ? &a : nullptr;
}

CUresult allocate(size_t bytes, Kind kind, void** out) {
  if (!bytes || !out) return CUDA_ERROR_INVALID_VALUE;
  size_t mapped = round_up(bytes, kPage);
  void* memory = mmap(nullptr, mapped + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  char* pages = static_cast<char*>(memory);
  memset(pages, kPoison, mapped);
  mprotect(pages + mapped, kPage, PROT_NONE);
  if (kind == Kind::kDevice) {
    device_total += bytes;
    if (!openings) mprotect(pages, mapped, PROT_NONE);
  }
  *out = pages + mapped - round_up(bytes, kAlignment);
  allocations[reinterpret_cast<uintptr_t>(*out)] = {pages, mapped, bytes, kind};
  return CUDA_SUCCESS;
}

CUresult release(void* address, Kind kind) {
  auto found = allocations.find(reinterpret_cast<uintptr_t>(address));
  if (found == allocations.end() || found->second.kind != kind) return CUDA_ERROR_INVALID_VALUE;
  CUresult ends = check_ends();
  Allocation a = found->second;
  if (kind == Kind::kDevice) device_total -= a.bytes;
  munmap(a.mapped, a.mapped_bytes + kPage);
  allocations.erase(found);
  return ends;
}

CUresult check_ends() {
  Opened opened;
  for (auto& [address, a] : allocations)
    for (const char* p = reinterpret_cast<char*>(address) + a.bytes; p < a.mapped + a.mapped_bytes; ++p)
      if (*p != char(kPoison))
        return broken = fail(CUDA_ERROR_ILLEGAL_ADDRESS, "byte %ld of an allocation of %zu bytes was written", long(p - reinterpret_cast<char*>(address)), a.bytes);
  return CUDA_SUCCESS;
}

size_t device_bytes() { return device_total; }

namespace {
void* pointer(CUdeviceptr p) { return reinterpret_cast<void*>(p); }
bool on_device(CUdeviceptr p, size_t bytes) { return find(pointer(p), bytes, Kind::kDevice) || find(pointer(p), bytes, Kind::kPinned); }
Act copy(void* to, const void* from, size_t bytes) {
  return [=] { return memcpy(to, from, bytes), CUDA_SUCCESS; };
}

CUresult to_device(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
  if (!on_device(to, bytes) || !from) return CUDA_ERROR_INVALID_VALUE;
  if (find(from, bytes, Kind::kPinned)) return submit(stream, copy(pointer(to), from, bytes));
  if (capturing(stream)) return fail(CUDA_ERROR_NOT_SUPPORTED, "a captured copy from memory that is not pinned");
  auto taken = std::make_shared<std::string>(static_cast<const char*>(from), bytes);  // read before the call returns, as the driver does
  return submit(stream, [=] { return memcpy(pointer(to), taken->data(), bytes), CUDA_SUCCESS; });
}
CUresult to_host(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
  if (!on_device(from, bytes) || !to) return CUDA_ERROR_INVALID_VALUE;
  bool pinned = find(to, bytes, Kind::kPinned);
  if (!pinned && capturing(stream)) return fail(CUDA_ERROR_NOT_SUPPORTED, "a captured copy to memory that is not pinned");
  CUresult status = submit(stream, copy(to, pointer(from), bytes));
  return status || pinned ? status : drain(stream);  // the driver returns when it has landed
}
CUresult on_chip(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  if (!on_device(to, bytes) || !on_device(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
  return submit(stream, copy(pointer(to), pointer(from), bytes));
}
template <typename T>
CUresult fill(CUdeviceptr to, T value, size_t count, CUstream stream) {
  if (!on_device(to, count * sizeof(T)) || to % sizeof(T)) return CUDA_ERROR_INVALID_VALUE;
  return submit(stream, [=] { return std::fill_n(static_cast<T*>(pointer(to)), count, value), CUDA_SUCCESS; });
}
}  // namespace
}  // namespace fake

using namespace fake;
CUresult cuMemGetInfo(size_t* free, size_t* total) {
  ENTER;
  *total = size_t(80) << 30, *free = *total - device_bytes();
  return CUDA_SUCCESS;
}
CUresult cuMemAlloc(CUdeviceptr* out, size_t bytes) {
  ENTER_UNSAFE;
  return allocate(bytes, Kind::kDevice, reinterpret_cast<void**>(out));
}
CUresult cuMemFree(CUdeviceptr p) {
  ENTER_UNSAFE;
  if (!p) return CUDA_SUCCESS;
  CUresult status = drain_all();  // as the driver does
  return status ? status : release(pointer(p), Kind::kDevice);
}
CUresult cuMemAllocAsync(CUdeviceptr* out, size_t bytes, CUstream stream) {
  ENTER;
  if (capturing(stream)) return fail(CUDA_ERROR_NOT_SUPPORTED, "memory of a graph's own");
  return allocate(bytes, Kind::kDevice, reinterpret_cast<void**>(out));
}
CUresult cuMemFreeAsync(CUdeviceptr p, CUstream stream) {
  ENTER;
  if (capturing(stream)) return fail(CUDA_ERROR_NOT_SUPPORTED, "memory of a graph's own");
  return p ? submit(stream, [=] { return release(pointer(p), Kind::kDevice); }) : CUDA_SUCCESS;
}
CUresult cuMemHostAlloc(void** out, size_t bytes, unsigned) {
  ENTER_UNSAFE;
  return allocate(bytes, Kind::kPinned, out);
}
CUresult cuMemAllocHost(void** out, size_t bytes) { return cuMemHostAlloc(out, bytes, 0); }
CUresult cuMemFreeHost(void* p) {
  ENTER_UNSAFE;
  CUresult status = drain_all();
  return status ? status : release(p, Kind::kPinned);
}
CUresult cuMemHostGetDevicePointer(CUdeviceptr* out, void* p, unsigned) {
  ENTER;
  if (!find(p, 1, Kind::kPinned)) return CUDA_ERROR_INVALID_VALUE;
  *out = reinterpret_cast<CUdeviceptr>(p);
  return CUDA_SUCCESS;
}

CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
  ENTER;
  return to_device(to, from, bytes, stream);
}
CUresult cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
  ENTER;
  return to_host(to, from, bytes, stream);
}
CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  ENTER;
  return on_chip(to, from, bytes, stream);
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream stream) {
  ENTER;
  return fill<uint8_t>(to, value, count, stream);
}
CUresult cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t count, CUstream stream) {
  ENTER;
  return fill<uint16_t>(to, value, count, stream);
}
CUresult cuMemsetD32Async(CUdeviceptr to, unsigned int value, size_t count, CUstream stream) {
  ENTER;
  return fill<uint32_t>(to, value, count, stream);
}
CUresult cuMemcpyHtoD(CUdeviceptr to, const void* from, size_t bytes) {
  ENTER_UNSAFE;
  CUresult status = to_device(to, from, bytes, nullptr);
  return status ? status : drain(nullptr);
}
CUresult cuMemcpyDtoH(void* to, CUdeviceptr from, size_t bytes) {
  ENTER_UNSAFE;
  CUresult status = to_host(to, from, bytes, nullptr);
  return status ? status : drain(nullptr);
}
CUresult cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  ENTER_UNSAFE;
  return on_chip(to, from, bytes, nullptr);
}
CUresult cuMemsetD8(CUdeviceptr to, unsigned char value, size_t count) {
  ENTER_UNSAFE;
  return fill<uint8_t>(to, value, count, nullptr);
}
