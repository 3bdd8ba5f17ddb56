// The instructions of kernels/cuda/include/ptx.cuh and wgmma.cuh on a CPU, so that the same kernel sources can be checked
// without a GPU. Slow, and strict where the hardware is lazy.
#pragma once
#include "copies.h"
#include "products.h"

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }

// build.py finds these two words in the preprocessed source: it makes a list of the entries out of them.
#undef __launch_bounds__
#define __launch_bounds__(...) EMULATE_BOUNDS(__VA_ARGS__)
#undef __grid_constant__
#define __grid_constant__ EMULATE_PARAMETER
#undef __global__
#define __global__
#undef __shared__
#define __shared__ static
#define DYNAMIC_SHARED(name) unsigned char* name = emulate::shared[emulate::block_of_cluster()]
using std::max;
using std::min;

#define threadIdx (emulate::thread_index)
#define blockIdx (emulate::block_index)
#define gridDim (emulate::grid)
inline void __syncthreads() { emulate::meet(emulate::block_meeting[emulate::block_of_cluster()], emulate::threads); }
// bar.sync 1: the first THREADS threads.
template <int THREADS>
void sync_first() { emulate::meet(emulate::named_meeting[emulate::block_of_cluster()][1], THREADS); }
template <int THREADS>
void named_wait(int name) { emulate::meet(emulate::named_meeting[emulate::block_of_cluster()][name], THREADS); }
template <int THREADS>
void named_arrive(int name) { emulate::attend(emulate::named_meeting[emulate::block_of_cluster()][name], THREADS); }
template <int>
void keep_registers() {}
template <int>
void take_registers() {}

inline float exp2_fast(float x) { return exp2f(x); }
inline float reciprocal_fast(float x) { return 1.0f / x; }
inline int uniform(int v) { return v; }
inline void sync_warp() { emulate::meet_warp(nullptr, [](void**) {}); }
struct Shuffle { float in, out; int lanes; };
inline float shuffle_xor(float v, int lanes) {
  Shuffle mine{v, 0, lanes};
  emulate::meet_warp(&mine, [](void** all) {
    for (int lane = 0; lane < 32; ++lane)
      static_cast<Shuffle*>(all[lane])->out = static_cast<Shuffle*>(all[lane ^ static_cast<Shuffle*>(all[lane])->lanes])->in;
  });
  return mine.out;
}
template <int COUNT>
float shuffle_xor_among(float v, int lanes) {
  Shuffle mine{v, 0, lanes};
  int index = emulate::current % COUNT;
  emulate::meet(emulate::few_meeting[emulate::current / COUNT * COUNT / 2], COUNT, index, &mine, [](void** all) {
    for (int lane = 0; lane < COUNT; ++lane)
      static_cast<Shuffle*>(all[lane])->out = static_cast<Shuffle*>(all[lane ^ static_cast<Shuffle*>(all[lane])->lanes])->in;
  });
  return mine.out;
}
inline void cluster_barrier() { emulate::meet(emulate::cluster_meeting, emulate::threads * emulate::cluster); }
inline float4 load_from_block(const float* shared, int rank) {
  const unsigned char* mine = emulate::shared[emulate::block_of_cluster()];
  return *reinterpret_cast<const float4*>(emulate::shared[rank] + (reinterpret_cast<const unsigned char*>(shared) - mine));
}
// Blocks run one after another: a flag of a later one is never raised.
inline void publish_to_blocks() {}
inline void raise_flag(int* flag) { *flag = 1; }
inline void await_flag(int* flag) {
  while (!*flag) emulate::yield();
  *flag = 0;
}
inline float4 load_published(const float4* p) { return *p; }
inline void wait_for_previous_kernel() {}
inline void let_next_kernel_start() {}

struct EmulatedEntry { const char* name; void (*run)(const void*); int parameter_bytes, threads; };
constexpr int emulate_first(int threads, int = 0) { return threads; }
