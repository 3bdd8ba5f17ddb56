// The instructions of kernels/cuda/include/ptx.cuh on a CPU, so that the same kernel sources can be checked
// without a GPU. One thread block, or one cluster of them, runs at a time; each thread is a fiber. Slow, and strict where the
// hardware is lazy: an asynchronous copy lands only when it is waited for, so a missing wait gives wrong results.
#pragma once
#include <math.h>
#include <ucontext.h>
#include <string.h>
#include <algorithm>
#include <deque>
#include <map>
#include <numeric>
#include <vector>
#include <vector_functions.h>

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }

#undef __shared__
#define __shared__ static
#undef __launch_bounds__
#define __launch_bounds__(...)
#define DYNAMIC_SHARED(name) unsigned char* name = emulate::shared[emulate::current / emulate::threads]
using std::max;
using std::min;

namespace emulate {
struct Copy { void* to; const void* from; int bytes; };
struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  bool done;
  std::deque<std::vector<Copy>> groups;  // committed copies; the last one is being filled
};
struct Meeting { int arrived, phase; void* slot[32]; };

inline std::vector<unsigned char*> shared;  // by block of the cluster
inline int threads, cluster;
inline dim3 grid, block_index, thread_index;  // of the fiber that runs
inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline int current;
inline bool progress;
inline Meeting cluster_meeting, named_meeting[16], block_meeting[16], warp_meeting[128], group_meeting[32];
inline void (*entry)(const void*);
inline const void* parameters;

inline void yield() { swapcontext(&fibers[current].context, &scheduler); }

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
  while (meeting.phase == phase) yield();
}
template <typename Act>
void meet_warp(void* slot, Act act) { meet(warp_meeting[current / 32], 32, current % 32, slot, act); }

inline void land(const std::vector<Copy>& copies) {
  for (const Copy& c : copies) c.bytes ? memcpy(c.to, c.from, 16) : memset(c.to, 0, 16);
}

inline void start() {
  entry(parameters);
  fibers[current].done = true;
  progress = true;
  yield();
}
}  // namespace emulate

#define threadIdx (emulate::thread_index)
#define blockIdx (emulate::block_index)
#define gridDim (emulate::grid)
inline void __syncthreads() {
  emulate::meet(emulate::block_meeting[emulate::current / emulate::threads], emulate::threads, 0, nullptr, [](void**) {});
}

inline void cp_async16(void* shared, const void* global, int bytes) { emulate::fibers[emulate::current].groups.back().push_back({shared, global, bytes}); }
inline void cp_async_commit() { emulate::fibers[emulate::current].groups.emplace_back(); }
template <int PENDING>
void cp_async_wait() {
  auto& groups = emulate::fibers[emulate::current].groups;
  while (int(groups.size()) - 1 > PENDING) emulate::land(groups.front()), groups.pop_front();
}

struct MatrixRead { const void* row; uint32_t* r; };
template <bool TRANSPOSED>
void read_matrices(uint32_t (&r)[4], const void* row) {
  MatrixRead mine{row, r};
  emulate::meet_warp(&mine, [](void** all) {
    for (int lane = 0; lane < 32; ++lane)
      for (int matrix = 0; matrix < 4; ++matrix) {
        uint16_t pair[2];
        for (int j = 0; j < 2; ++j) {
          int line = TRANSPOSED ? lane % 4 * 2 + j : lane / 4, column = TRANSPOSED ? lane / 4 : lane % 4 * 2 + j;
          pair[j] = static_cast<const uint16_t*>(static_cast<MatrixRead*>(all[matrix * 8 + line])->row)[column];
        }
        memcpy(&static_cast<MatrixRead*>(all[lane])->r[matrix], pair, 4);
      }
  });
}
inline void ldmatrix4(uint32_t (&r)[4], const void* row) { read_matrices<false>(r, row); }
inline void ldmatrix4_transposed(uint32_t (&r)[4], const void* row) { read_matrices<true>(r, row); }

inline float half_at(uint32_t pair, int which) {
  __half_raw raw{uint16_t(pair >> (16 * which))};
  return __half2float(__half(raw));
}
struct Product { float* d; const uint32_t* a; uint32_t b[2]; };
inline void mma16816(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  Product mine{d, a, {b0, b1}};
  emulate::meet_warp(&mine, [](void** all) {
    float a[16][16], b[16][8];
    for (int lane = 0; lane < 32; ++lane) {
      Product& t = *static_cast<Product*>(all[lane]);
      for (int j = 0; j < 4; ++j)
        for (int h = 0; h < 2; ++h) a[lane / 4 + j % 2 * 8][j / 2 * 8 + lane % 4 * 2 + h] = half_at(t.a[j], h);
      for (int j = 0; j < 2; ++j)
        for (int h = 0; h < 2; ++h) b[j * 8 + lane % 4 * 2 + h][lane / 4] = half_at(t.b[j], h);
    }
    for (int lane = 0; lane < 32; ++lane)
      for (int j = 0; j < 4; ++j)
        for (int k = 0; k < 16; ++k)
          static_cast<Product*>(all[lane])->d[j] += a[lane / 4 + j / 2 * 8][k] * b[k][lane % 4 * 2 + j % 2];
  });
}

// Warpgroup products: recorded when issued, computed when waited for. A tile is its address; `k` its first column.
inline uint64_t wgmma_tile(const void* tile, int k) { return reinterpret_cast<uint64_t>(tile) | uint64_t(k) << 56; }
inline float swizzled_at(uint64_t tile, int line, int column) {
  const unsigned char* base = reinterpret_cast<const unsigned char*>(tile & 0xffffffffffffff);
  column += int(tile >> 56);
  uint16_t bits;
  memcpy(&bits, base + line * 128 + ((column / 8) ^ (line & 7)) * 16 + column % 8 * 2, 2);
  return half_at(bits, 0);
}
struct GroupProduct {
  float* d;
  uint64_t a, b;       // tiles; a is 0 where the left operand comes from registers
  uint32_t registers[4];
  int columns;
  bool add, transposed;
};
inline std::deque<std::vector<GroupProduct>> group_products[4096];  // by thread, one entry per committed group and one open
inline uint32_t group_registers[4096][4];
inline std::deque<std::vector<GroupProduct>>& my_products() {
  auto& mine = group_products[emulate::current];
  if (mine.empty()) mine.emplace_back();
  return mine;
}
inline void wgmma160(float (&d)[80], uint64_t a, uint64_t b) { my_products().back().push_back({d, a, b, {}, 160, true, false}); }
template <int ADD>
void wgmma64(float (&d)[8][4], uint64_t a, uint64_t b) { my_products().back().push_back({d[0], a, b, {}, 64, ADD, false}); }
inline void wgmma64(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b) {
  my_products().back().push_back({d[0], 0, b, {a[0], a[1], a[2], a[3]}, 64, true, true});
}
inline void wgmma_begin() {}
inline void wgmma_commit() { my_products().emplace_back(); }

// Element (row, k) of the left operand for this thread's row: the warp's lanes hold it together.
inline float left_at(const GroupProduct& p, int row, int k) {
  if (p.a) return swizzled_at(p.a, row, k);
  int lane = row % 8 * 4 + k % 8 / 2, base = emulate::current / 128 * 128 + row / 16 * 32;
  return half_at(group_registers[base + lane][row % 16 / 8 + k / 8 * 2], k % 2);
}
inline void wgmma_now(const GroupProduct& p) {
  int thread = emulate::current % 128;
  emulate::Meeting& meeting = emulate::group_meeting[emulate::current / 128];
  memcpy(group_registers[emulate::current], p.registers, 16);
  emulate::meet(meeting, 128, 0, nullptr, [](void**) {});
  for (int n = 0; n < p.columns / 8; ++n)
    for (int j = 0; j < 4; ++j) {
      int row = thread / 32 * 16 + thread % 32 / 4 + j / 2 * 8, column = n * 8 + thread % 4 * 2 + j % 2;
      float sum = p.add ? p.d[n * 4 + j] : 0.0f;
      for (int k = 0; k < 16; ++k) sum += left_at(p, row, k) * (p.transposed ? swizzled_at(p.b, k, column) : swizzled_at(p.b, column, k));
      p.d[n * 4 + j] = sum;
    }
  emulate::meet(meeting, 128, 0, nullptr, [](void**) {});
}
template <int PENDING>
void wgmma_wait() {
  for (auto& mine = my_products(); int(mine.size()) - 1 > PENDING; mine.pop_front())
    for (const GroupProduct& p : mine.front()) wgmma_now(p);
}
template <typename T>
void wgmma_hold(T&) {}
inline void publish_to_wgmma() {}

// Barriers in shared memory. What a copy brings lands, and counts, when somebody waits.
struct Barrier { uint16_t arrivals, missing; int32_t bytes : 31; uint32_t phase : 1; };
struct Delivery { std::vector<emulate::Copy> copies; int bulk_bytes, arrivals; };
inline std::map<uint64_t*, std::vector<Delivery>> deliveries;
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
  auto& groups = emulate::fibers[emulate::current].groups;
  deliveries[barrier].push_back({groups.back(), 0, 1});
  groups.back().clear();
}
inline void bulk_copy(void* shared, const void* global, int bytes, uint64_t* barrier) {
  std::vector<emulate::Copy> copies;
  for (int j = 0; j < bytes; j += 16) copies.push_back({static_cast<char*>(shared) + j, static_cast<const char*>(global) + j, 16});
  deliveries[barrier].push_back({copies, bytes, 0});
}
inline void barrier_wait(uint64_t* barrier, int parity) {
  for (;;) {
    for (Delivery& d : std::exchange(deliveries[barrier], {})) emulate::land(d.copies), barrier_step(barrier, d.arrivals, -d.bulk_bytes);
    if (int(reinterpret_cast<Barrier*>(barrier)->phase) != parity) return;
    emulate::yield();
  }
}
template <int THREADS>
void sync_first() { emulate::meet(emulate::named_meeting[emulate::current / emulate::threads], THREADS, 0, nullptr, [](void**) {}); }
template <int>
void keep_registers() {}
template <int>
void take_registers() {}

inline float exp2_fast(float x) { return exp2f(x); }
inline float reciprocal_fast(float x) { return 1.0f / x; }
struct Shuffle { float in, out; int lanes; };
inline float shuffle_xor(float v, int lanes) {
  Shuffle mine{v, 0, lanes};
  emulate::meet_warp(&mine, [](void** all) {
    for (int lane = 0; lane < 32; ++lane)
      static_cast<Shuffle*>(all[lane])->out = static_cast<Shuffle*>(all[lane ^ static_cast<Shuffle*>(all[lane])->lanes])->in;
  });
  return mine.out;
}
inline void cluster_barrier() { emulate::meet(emulate::cluster_meeting, int(emulate::fibers.size()), 0, nullptr, [](void**) {}); }
inline float4 load_from_block(const float* shared, int rank) {
  const unsigned char* mine = emulate::shared[emulate::current / emulate::threads];
  return *reinterpret_cast<const float4*>(emulate::shared[rank] + (reinterpret_cast<const unsigned char*>(shared) - mine));
}
inline void wait_for_previous_kernel() {}
inline void let_next_kernel_start() {}

// Runs one launch; returns 0, or 1 where threads wait for each other for ever. Clusters lie along z.
extern "C" int emulate_launch(void (*kernel)(const void*), const int* grid_size, int block_threads, int shared_bytes, const void* params, int cluster_blocks) {
  using namespace emulate;
  int room = (shared_bytes + 2047) / 1024 * 1024;
  std::vector<unsigned char> memory(cluster_blocks * room + 1024);
  shared.clear();
  for (int b = 0; b < cluster_blocks; ++b) shared.push_back(memory.data() + (1024 - reinterpret_cast<uintptr_t>(memory.data()) % 1024) + b * room);
  grid = dim3(grid_size[0], grid_size[1], grid_size[2]);
  entry = kernel, parameters = params, threads = block_threads, cluster = cluster_blocks;
  fibers.resize(threads * cluster);
  for (Fiber& f : fibers) f.stack.resize(256 * 1024);
  for (unsigned b = 0; b < grid.x * grid.y * grid.z; b += 1) {
    dim3 first(b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y);
    if (first.z % cluster) continue;
    std::fill(memory.begin(), memory.end(), 0xff);  // NaN: shared memory starts undefined
    cluster_meeting.arrived = 0;
    for (Meeting& m : block_meeting) m.arrived = 0;
    for (Meeting& m : named_meeting) m.arrived = 0;
    for (Meeting& m : warp_meeting) m.arrived = 0;
    for (Meeting& m : group_meeting) m.arrived = 0;
    for (Fiber& f : fibers) {
      f.done = false;
      f.groups.assign(1, {});
      getcontext(&f.context);
      f.context.uc_stack.ss_sp = f.stack.data();
      f.context.uc_stack.ss_size = f.stack.size();
      f.context.uc_link = nullptr;
      makecontext(&f.context, start, 0);
    }
    int count = threads * cluster, round = int(b);
    for (int left = 1; left; ++round) {
      progress = false;
      left = 0;
      // a new order every round, so that what only luck orders goes wrong
      int step = round * 2 + 1, offset = round * 37;
      while (std::gcd(step, count) != 1) step += 2;
      for (int turn = 0; turn < count; ++turn) {
        current = int((int64_t(turn) * step + offset) % count);
        if (fibers[current].done) continue;
        thread_index = dim3(current % threads, 0, 0);
        block_index = dim3(first.x, first.y, first.z + current / threads);
        swapcontext(&scheduler, &fibers[current].context);
        left += !fibers[current].done;
      }
      if (left && !progress) return 1;
    }
  }
  return 0;
}
