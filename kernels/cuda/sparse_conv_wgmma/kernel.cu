// only: sm_90a
// sparse_conv with Hopper's warpgroup products: same parameters, same packed weights, same results to rounding.
// One warpgroup fetches, the others multiply; barriers in shared memory pass the stages between them. All of them finish.
#include "conv.cuh"
#include "near.cuh"
#include "stages.cuh"
#include "wgmma.cuh"

// GROUPS multiplying warpgroups of 64 x 160 outputs, STAGES tiles of K in flight.
// GATED: columns are values and gates.
template <int GROUPS, int STAGES, bool GATED>
struct WarpgroupConv {
  static constexpr int BM = GROUPS * 64, BN = 160, kMultiply = GROUPS * 128, kFetch = 128, kPitch = BN + 8;
  using Tiles = Stages<BM, BN, STAGES, kMultiply>;
  using Around = Near<BM, BN, GATED>;
  // behind the last tile of K the first stages hold what is added to the sums, the ones behind them the sums
  static constexpr int kNearStages = (Around::kBytes + Tiles::kStage - 1) / Tiles::kStage, kStaged = (Around::kBytes + 127) / 128 * 128;
  static_assert(kStaged + BM * kPitch * 4 <= STAGES * Tiles::kStage && STAGES <= 8, "staging fits; barriers fit their 128 bytes");

  // The stage to begin with, so that the one behind the last tile is the first.
  __device__ static Ring<STAGES> ring(int tiles) { return Ring<STAGES>((STAGES - tiles % STAGES) % STAGES); }

  __device__ static void fetch(const ConvParams& p, const Tiles& shared, const Around& around, const int32_t* rows, int first_column,
                               int weights, int begin, int end) {
    bool leader = threadIdx.x == kMultiply;
    Ring<STAGES> at = ring(end - begin), early = at;
    // weights do not depend on the kernel before this one: fetch them while it drains
    if (leader)
#pragma unroll 1
      for (int k = begin; k < min(end, begin + STAGES); ++k, early.next()) shared.fetch_weights(p, early.stage, weights + k, first_column);
    wait_for_previous_kernel();
    const uint64_t* slots = reinterpret_cast<const uint64_t*>(p.slots);
    Sources source = {resolve<const __half>(p.source[0], slots), resolve<const __half>(p.source[1], slots)};
    Walk walk(p, begin);
#pragma unroll 1
    for (int k = begin; k < end; ++k, walk.next(), at.next()) {
      barrier_wait(shared.empty + at.stage, at.parity ^ 1);
      if (leader && k >= begin + STAGES) shared.fetch_weights(p, at.stage, weights + k, first_column);
      gather_tile<BM>(p, source, walk, rows, shared.tiles + at.stage * Tiles::kStage);
      barrier_arrive_after_copies(shared.full + at.stage);
    }
    if (p.splits > 1) return;
    for (int s = 0; s < kNearStages; ++s, at.next()) barrier_wait(shared.empty + at.stage, at.parity ^ 1);
    around.bring();
  }

  __device__ static void stage(const float (&sums)[80], float* staged) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int n = 0; n < BN / 8; ++n) {
      float* at = staged + (warp * 16 + lane / 4) * kPitch + n * 8 + lane % 4 * 2;
      *reinterpret_cast<float2*>(at) = make_float2(sums[n * 4], sums[n * 4 + 1]);
      *reinterpret_cast<float2*>(at + 8 * kPitch) = make_float2(sums[n * 4 + 2], sums[n * 4 + 3]);
    }
  }

  __device__ static void multiply(const ConvParams& p, const Tiles& shared, float* staged, float2* norms, int live, int first_row, int first_column, int tiles) {
    wait_for_previous_kernel();
    if (p.splits == 1 && p.epilogue.norm_parts) {
      Finish::RowNorm norm = row_norm(p, live, first_row);
      if (threadIdx.x % 2 == 0) norms[threadIdx.x / 2] = make_float2(norm.mean, norm.rstd);
    }
    float sums[80];
    Ring<STAGES> at = ring(tiles);
    shared.multiply(tiles, at, sums);
    if (p.splits > 1) return store_sums<BN>(p, live * p.images, first_row, first_column, sums);
    sync_first<kMultiply>();  // everybody has read the last stages: their memory takes the sums
    stage(sums, staged);
  }

  __device__ static void run(const ConvParams& p) {
    DYNAMIC_SHARED(memory);
    Tiles shared(memory);
    int32_t* rows = reinterpret_cast<int32_t*>(shared.behind());
    float2* norms = reinterpret_cast<float2*>(rows + BM);  // behind one tap: layer norms are of linears
    float* staged = reinterpret_cast<float*>(memory + kStaged);
    let_next_kernel_start();
    int live = resolve(p.live), first_row = blockIdx.y * BM, first_column = blockIdx.x * BN;
    if (first_row >= live * p.images) return wait_for_previous_kernel();
    shared.init();
    load_row_table<BM, kMultiply + kFetch>(p, live, first_row, rows);
    __syncthreads();
    int total = k_tiles(p);
    int begin = int(int64_t(total) * blockIdx.z / p.splits), end = int(int64_t(total) * (blockIdx.z + 1) / p.splits);

    Around around(p, live, first_row, first_column, memory, norms);
    if (threadIdx.x >= kMultiply) fetch(p, shared, around, rows, first_column, first_k_tile(p, live, first_row), begin, end);
    else multiply(p, shared, staged, norms, live, first_row, first_column, end - begin);
    if (p.splits > 1) return;
    // all sums are staged, all that is added is near; once would do, but racecheck does not see the first barrier after roles part, and two take no time
    __syncthreads();
    __syncthreads();
    around.template finish<kMultiply + kFetch>(staged, kPitch);
  }
};

#define KERNEL(NAME, GROUPS, STAGES, BLOCKS, GATED)                                                                 \
  extern "C" __global__ void __launch_bounds__(GROUPS * 128 + 128, BLOCKS) NAME(const __grid_constant__ ConvParams p) { \
    WarpgroupConv<GROUPS, STAGES, GATED>::run(p);                                                                   \
  }
KERNEL(sparse_conv_wgmma_64x160, 1, 4, 2, false)
KERNEL(sparse_conv_wgmma_128x160, 2, 5, 1, false)
KERNEL(sparse_conv_wgmma_192x160, 3, 5, 1, false)
KERNEL(sparse_conv_wgmma_64x160_gated, 1, 4, 2, true)
KERNEL(sparse_conv_wgmma_128x160_gated, 2, 5, 1, true)
KERNEL(sparse_conv_wgmma_192x160_gated, 3, 5, 1, true)
