// Thread blocks on a CPU: every thread a fiber, one block, or one cluster of them, at a time. x86-64 Linux.
#pragma once
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <algorithm>
#include <deque>
#include <numeric>
#include <vector>
#include <vector_functions.h>

namespace emulate {
struct Copy { void* to; const void* from; int bytes; };  // from null: zeros
struct Fiber {
  void* top;          // of its stack, while another one runs
  bool done;
  const int* watched; // not to be woken while *watched == seen; null: at any time
  int seen;
  std::vector<Copy> copies;                    // not committed yet
  std::deque<std::vector<Copy>> groups;        // committed
};
struct Meeting { int arrived, phase; void* slot[128]; };

inline constexpr int kMostThreads = 8192, kNamed = 16;
inline std::vector<unsigned char*> shared;  // by block of the cluster
inline int threads, cluster;
inline dim3 grid, block_index, thread_index;  // of the fiber that runs
inline std::vector<Fiber> fibers;
inline void* scheduler;
inline int current;
inline bool progress;
inline Meeting cluster_meeting, block_meeting[16], named_meeting[16][kNamed], warp_meeting[kMostThreads / 32], few_meeting[kMostThreads / 2], group_meeting[kMostThreads / 128];
inline void (*entry)(const void*);
inline const void* parameters;

// Puts the registers that a function must keep on this stack, its top into *from, and goes on where `to` was left.
extern "C" void emulate_switch(void** from, void* to);
asm(R"(
.text
.local emulate_switch
emulate_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

inline void yield() { emulate_switch(&fibers[current].top, scheduler); }
inline int block_of_cluster() { return current / threads; }

// Counts a thread that does not wait.
inline void attend(Meeting& meeting, int size) {
  progress = true;
  if (++meeting.arrived == size) meeting.arrived = 0, ++meeting.phase;
}
// Waits for `size` threads of `meeting`; the last to come runs `act` over everybody's slots.
template <typename Act>
void meet(Meeting& meeting, int size, int index, void* slot, Act act) {
  meeting.slot[index] = slot;
  int phase = meeting.phase;
  progress = true;
  if (++meeting.arrived == size) {
    act(meeting.slot);
    meeting.arrived = 0, ++meeting.phase;
    return;
  }
  Fiber& mine = fibers[current];
  mine.watched = &meeting.phase, mine.seen = phase;
  while (meeting.phase == phase) yield();
  mine.watched = nullptr;
}
inline void meet(Meeting& meeting, int size) { meet(meeting, size, 0, nullptr, [](void**) {}); }
template <typename Act>
void meet_warp(void* slot, Act act) { meet(warp_meeting[current / 32], 32, current % 32, slot, act); }

inline void land(const std::vector<Copy>& copies) {
  for (const Copy& c : copies) c.from ? memcpy(c.to, c.from, c.bytes) : memset(c.to, 0, c.bytes);
}

inline void start() {
  entry(parameters);
  fibers[current].done = true;
  progress = true;
  yield();
}

// Stacks lie a few lines more than a power of two apart, or they would fight for the same cache sets.
inline constexpr size_t kStack = (96 << 10) + 192;
inline char* stacks() {
  static void* memory = mmap(nullptr, kStack * kMostThreads, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return static_cast<char*>(memory);
}
inline void reset(Fiber& fiber, int index) {
  void** top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stacks()) + kStack * (index + 1)) & ~uintptr_t(15));
  *--top = nullptr;  // where `start` would return to
  *--top = reinterpret_cast<void*>(start);
  for (int j = 0; j < 6; ++j) *--top = nullptr;
  fiber.top = top, fiber.done = false, fiber.watched = nullptr;
  fiber.copies.clear(), fiber.groups.clear();
}

// Runs all threads of the blocks that begin at `first`. False where they wait for each other for ever.
inline bool run_cluster(dim3 first, int round) {
  int count = threads * cluster;
  for (Meeting* m : {&cluster_meeting, block_meeting, named_meeting[0], warp_meeting, group_meeting}) m->arrived = 0;
  for (int b = 0; b < cluster; ++b) {
    block_meeting[b].arrived = 0;
    for (Meeting& m : named_meeting[b]) m.arrived = 0;
  }
  for (int f = 0; f * 2 < count; ++f) few_meeting[f].arrived = 0;
  for (int w = 0; w * 32 < count; ++w) warp_meeting[w].arrived = group_meeting[w / 4].arrived = 0;
  for (int j = 0; j < count; ++j) reset(fibers[j], j);
  for (int left = count; left; ++round) {
    progress = false;
    // a new order every round, so that what only luck orders goes wrong
    int step = (round * 2 + 1) % count | 1, at = round * 37 % count;
    while (std::gcd(step, count) != 1) step = (step + 2) % count | 1;
    for (int turn = 0; turn < count; ++turn, at = at + step >= count ? at + step - count : at + step) {
      Fiber& fiber = fibers[at];
      if (fiber.done || (fiber.watched && *fiber.watched == fiber.seen)) continue;
      current = at;
      thread_index = dim3(current % threads, 0, 0);
      block_index = dim3(first.x, first.y, first.z + block_of_cluster());
      emulate_switch(&scheduler, fiber.top);
      left -= fiber.done;
    }
    if (left && !progress) return false;
  }
  return true;
}
}  // namespace emulate

// Where the running thread is: block, then thread of it.
extern "C" void emulate_where(int* place) {
  place[0] = emulate::block_index.x, place[1] = emulate::block_index.y, place[2] = emulate::block_index.z;
  place[3] = emulate::thread_index.x;
}

// Runs one launch; returns 0, or 1 where threads wait for each other for ever. Clusters lie along z.
extern "C" int emulate_launch(void (*kernel)(const void*), const int* grid_size, int block_threads, int shared_bytes, const void* params, int cluster_blocks) {
  using namespace emulate;
  size_t room = (shared_bytes + 2047) / 1024 * 1024;
  static std::vector<unsigned char> memory;
  memory.resize(std::max(memory.size(), cluster_blocks * room + 1024));
  shared.clear();
  for (int b = 0; b < cluster_blocks; ++b) shared.push_back(memory.data() + (1024 - reinterpret_cast<uintptr_t>(memory.data()) % 1024) + b * room);
  grid = dim3(grid_size[0], grid_size[1], grid_size[2]);
  entry = kernel, parameters = params, threads = block_threads, cluster = cluster_blocks;
  fibers.resize(std::max<size_t>(fibers.size(), threads * cluster));
  for (unsigned b = 0; b < grid.x * grid.y * grid.z; b += 1) {
    dim3 first(b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y);
    if (first.z % cluster) continue;
    memset(shared[0], 0xff, cluster * room);  // NaN: shared memory starts undefined
    if (!run_cluster(first, int(b))) return 1;
  }
  return 0;
}
