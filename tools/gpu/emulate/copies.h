// Asynchronous copies, and barriers in shared memory. Strict where the hardware is lazy: a copy lands only when somebody waits for it.
#pragma once
#include "machine.h"
#include <unordered_map>
#include <utility>

inline void cp_async16(void* shared, const void* global, int bytes) {
  emulate::fibers[emulate::current].copies.push_back({shared, bytes ? global : nullptr, 16});
}
inline void cp_async16(void* shared, const void* global) { cp_async16(shared, global, 16); }
inline void cp_async_commit() {
  emulate::Fiber& mine = emulate::fibers[emulate::current];
  mine.groups.push_back(std::exchange(mine.copies, {}));
}
template <int PENDING>
void cp_async_wait() {
  auto& groups = emulate::fibers[emulate::current].groups;
  while (int(groups.size()) > PENDING) emulate::land(groups.front()), groups.pop_front();
}

// What a copy brings lands, and counts, when somebody waits.
struct Barrier { uint16_t arrivals, missing; int32_t bytes : 31; uint32_t phase : 1; };
struct Delivery { std::vector<emulate::Copy> copies; int bulk_bytes, arrivals; };
inline std::unordered_map<uint64_t*, std::vector<Delivery>> deliveries;
inline void barrier_step(uint64_t* barrier, int arrivals, int bytes) {
  Barrier& b = *reinterpret_cast<Barrier*>(barrier);
  emulate::progress = true;
  b.missing -= arrivals, b.bytes += bytes;
  if (b.missing == 0 && b.bytes == 0) b.missing = b.arrivals, b.phase ^= 1;
}
inline void barrier_init(uint64_t* barrier, int arrivals) {
  Barrier b = {uint16_t(arrivals), uint16_t(arrivals), 0, 0};
  memcpy(barrier, &b, 8);
  deliveries[barrier].clear();
}
inline void barrier_arrive(uint64_t* barrier) { barrier_step(barrier, 1, 0); }
inline void barrier_expect(uint64_t* barrier, int bytes) { barrier_step(barrier, 1, bytes); }
inline void barrier_arrive_after_copies(uint64_t* barrier) {
  deliveries[barrier].push_back({std::exchange(emulate::fibers[emulate::current].copies, {}), 0, 1});
}
inline void bulk_copy(void* shared, const void* global, int bytes, uint64_t* barrier) {
  deliveries[barrier].push_back({{{shared, global, bytes}}, bytes, 0});
}
inline void barrier_wait(uint64_t* barrier, int parity) {
  std::vector<Delivery>& waiting = deliveries[barrier];
  for (;;) {
    for (Delivery& d : waiting) emulate::land(d.copies), barrier_step(barrier, d.arrivals, -d.bulk_bytes);
    waiting.clear();
    if (int(reinterpret_cast<Barrier*>(barrier)->phase) != parity) return;
    emulate::yield();
  }
}
