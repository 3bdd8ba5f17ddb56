// A CUDA driver without a GPU: kernels run in the emulator, work waits on its stream until somebody synchronises.
// What is not offered is an absent symbol or CUDA_ERROR_NOT_SUPPORTED. README.md of tools/gpu says what it is strict about.
#pragma once
#pragma GCC visibility push(default)
#include <cuda.h>
#pragma GCC visibility pop
#include <stdint.h>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace fake {
using Act = std::function<CUresult()>;

// Held by every entry point. `status` is what a call must return at once: no context, or an earlier failure that nothing mends.
struct Call {
  std::lock_guard<std::recursive_mutex> lock;
  CUresult status;
  explicit Call(bool needs_context = true);
};
extern CUresult broken;  // the first failure of work, reported from then on
CUresult fail(CUresult status, const char* format, ...);  // says why on stderr

int capability(bool major);  // of the GPU that this one passes for

// --- memory.cpp ---
enum class Kind { kDevice, kPinned };
struct Allocation {
  char* mapped;
  size_t mapped_bytes, bytes;  // of the pages without the guard page; as asked for
  Kind kind;
};
const Allocation* find(const void* address, size_t bytes, Kind kind);  // that holds all of it, or null
CUresult allocate(size_t bytes, Kind kind, void** out);
CUresult release(void* address, Kind kind);
CUresult check_ends();  // nothing was written between an allocation's end and its last page's
size_t device_bytes();
// Device memory can be touched while one of these lives; a host that reads it otherwise is stopped.
struct Opened {
  Opened();
  ~Opened();
};
void explain_faults();  // on stderr, before the process dies of them

// --- launch.cpp ---
extern const char* running;  // name of the kernel that runs, or null
void where(int (&block_and_thread)[4]);

// --- stream.cpp ---
struct Work {
  Act act;
  CUstream_st* awaited;  // or: that stream up to `ticket`
  uint64_t ticket;
};
struct Capture {
  CUgraph_st* graph;
  CUstream_st* origin;
  CUstreamCaptureMode mode;
  CUresult spoiled = CUDA_SUCCESS;
};
CUresult submit(CUstream stream, Act act);
CUresult drain(CUstream stream);
CUresult drain_all();
bool capturing(CUstream stream);
CUresult unsafe_call();  // of a call that a capture forbids: spoils it
}  // namespace fake

// How entry points begin: ENTER, or one of these where no context is needed yet or a capture forbids the call.
#define ENTER_WITHOUT_CONTEXT     \
  fake::Call call(false);         \
  if (call.status) return call.status
#define ENTER                     \
  fake::Call call;                \
  if (call.status) return call.status
#define ENTER_UNSAFE              \
  ENTER;                          \
  if (CUresult status = fake::unsafe_call()) return status

struct CUstream_st {
  bool blocking;  // waits for the default stream, and it for this one
  std::deque<fake::Work> queue;
  uint64_t submitted = 0, done = 0;
  std::shared_ptr<fake::Capture> capture;
  std::vector<int> tails;  // nodes that the next captured one follows
};
struct CUgraph_st {
  struct Node {
    fake::Act act;
    std::vector<int> after;
  };
  std::vector<Node> nodes;
};
