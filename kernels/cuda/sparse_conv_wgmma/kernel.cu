// only: sm_90a
// sparse_conv with Hopper's warpgroup products: same parameters, same packed weights, same results to rounding.
#include "conv.cuh"
#include "wgmma.cuh"

// GROUPS warpgroups, each 64 x 160 outputs. STAGES tiles of K in flight; LAG products may still run while the next
// tile is fetched, which costs a stage: the tile they read must not be refilled yet.
template <int GROUPS, int STAGES, int LAG>
struct WarpgroupConv {
  static constexpr int BM = GROUPS * 64, BN = 160, kThreads = GROUPS * 128, kAhead = STAGES - 1 - LAG;
  static constexpr int kTileA = BM * kLine, kTileB = BN * kLine, kStage = kTileA + kTileB;
  static constexpr int kPitch = BN + 8;
  static_assert(BM * kPitch * 4 <= STAGES * kStage && kAhead >= 1, "staging fits; something is in flight");

  __device__ static void load_weights(const ConvParams& p, int k_tile, int first_column, unsigned char* stage) {
    const unsigned char* lines = reinterpret_cast<const unsigned char*>(p.weights) + (size_t(k_tile) * p.cout + first_column) * kLine;
    int bytes = min(BN, p.cout - first_column) * kLine;
#pragma unroll
    for (int j = threadIdx.x * 16; j < kTileB; j += kThreads * 16)
      cp_async16(stage + kTileA + j, lines + (j < bytes ? j : 0), j < bytes ? 16 : 0);
  }

  __device__ static void run(const ConvParams& p) {
    DYNAMIC_SHARED(memory);
    let_next_kernel_start();
    int live = resolve(p.live), first_row = blockIdx.y * BM, first_column = blockIdx.x * BN;
    if (first_row >= live * p.images) return wait_for_previous_kernel();

    int32_t* rows = reinterpret_cast<int32_t*>(memory + STAGES * kStage);
    int total = k_tiles(p);
    int begin = int(int64_t(total) * blockIdx.z / p.splits), end = int(int64_t(total) * (blockIdx.z + 1) / p.splits);
    const uint64_t* slots = reinterpret_cast<const uint64_t*>(p.slots);
    for (int s = 0; s < kAhead; ++s)
      if (begin + s < end) load_weights(p, begin + s, first_column, memory + s * kStage);
    load_row_table<BM, kThreads>(p, live, first_row, rows);
    wait_for_previous_kernel();
    Sources source = {resolve<const __half>(p.source[0], slots), resolve<const __half>(p.source[1], slots)};
    Walk walk(p, begin);
    __syncthreads();
    for (int s = 0; s < kAhead; ++s) {
      if (begin + s < end) gather_tile<BM, kThreads>(p, source, walk, rows, memory + s * kStage), walk.next();
      cp_async_commit();
    }

    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = threadIdx.x / 128;
    float sums[80];
#pragma unroll
    for (int j = 0; j < 80; ++j) sums[j] = 0.0f;
    for (int k = begin, s = 0, refill = kAhead; k < end; ++k) {
      cp_async_wait<kAhead - 1>();
      publish_to_wgmma();
      __syncthreads();  // stage s has arrived for all; the products of turn k - 1 - LAG are over for all
      unsigned char* stage = memory + s * kStage;
      wgmma_hold(sums);
      wgmma_begin();
#pragma unroll
      for (int step = 0; step < kTileK; step += 16)
        wgmma160(sums, wgmma_tile(stage + group * 64 * kLine, step), wgmma_tile(stage + kTileA, step));
      wgmma_commit();
      if (k + kAhead < end) {
        unsigned char* next = memory + refill * kStage;
        gather_tile<BM, kThreads>(p, source, walk, rows, next), walk.next();
        load_weights(p, k + kAhead, first_column, next);
      }
      cp_async_commit();
      wgmma_wait<LAG>();
      wgmma_hold(sums);
      s = s == STAGES - 1 ? 0 : s + 1;
      refill = refill == STAGES - 1 ? 0 : refill + 1;
    }
    wgmma_wait<0>();
    wgmma_hold(sums);
    cp_async_wait<0>();
    __syncthreads();
    float* staged = reinterpret_cast<float*>(memory);
#pragma unroll
    for (int n = 0; n < BN / 8; ++n) {
      float* at = staged + (warp * 16 + lane / 4) * kPitch + n * 8 + lane % 4 * 2;
      *reinterpret_cast<float2*>(at) = make_float2(sums[n * 4], sums[n * 4 + 1]);
      *reinterpret_cast<float2*>(at + 8 * kPitch) = make_float2(sums[n * 4 + 2], sums[n * 4 + 3]);
    }
    __syncthreads();
    store_tile<BM, BN, kThreads>(p, live, first_row, first_column, staged, kPitch);
  }
};

#define KERNEL(NAME, GROUPS, STAGES, LAG, BLOCKS)                                                        \
  extern "C" __global__ void __launch_bounds__(GROUPS * 128, BLOCKS) NAME(const __grid_constant__ ConvParams p) { \
    WarpgroupConv<GROUPS, STAGES, LAG>::run(p);                                                          \
  }
KERNEL(sparse_conv_wgmma_128x160, 2, 3, 0, 2)
KERNEL(sparse_conv_wgmma_128x160_deep, 2, 5, 1, 1)
KERNEL(sparse_conv_wgmma_64x160, 1, 4, 1, 2)
KERNEL(sparse_conv_wgmma_256x160, 4, 4, 1, 1)
