// only: sm_90a
// sparse_conv with Hopper's warpgroup products: same parameters, same packed weights, same results to rounding.
// One warpgroup fetches, the others multiply; barriers in shared memory pass the stages between them.
#include "conv.cuh"
#include "finish.cuh"
#include "wgmma.cuh"

// GROUPS multiplying warpgroups of 64 x 160 outputs, STAGES tiles of K in flight.
template <int GROUPS, int STAGES>
struct WarpgroupConv {
  static constexpr int BM = GROUPS * 64, BN = 160, kMultiply = GROUPS * 128, kFetch = 128;
  static constexpr int kTileA = BM * kLine, kTileB = BN * kLine, kStage = kTileA + kTileB;
  static constexpr int kPitch = BN + 8;
  static constexpr int kStagedTile = BM * kPitch * 4;
  static_assert(kStagedTile + StagedFinish<BM, BN, false>::kNearBytes <= STAGES * kStage && STAGES <= 8, "staging fits; barriers fit their 128 bytes");

  struct Shared {
    unsigned char* tiles;
    uint64_t *full, *empty;
    int32_t* rows;
    __device__ explicit Shared(unsigned char* memory)
        : tiles(memory),
          full(reinterpret_cast<uint64_t*>(memory + STAGES * kStage)),
          empty(full + STAGES),
          rows(reinterpret_cast<int32_t*>(memory + STAGES * kStage + 128)) {}
  };

  // Weights are stored swizzled, so a tile is one run of memory for the copy engine. Columns past cout stay undefined and unused.
  __device__ static void fetch_weights(const ConvParams& p, const Shared& shared, int stage, int k_tile, int first_column) {
    int bytes = min(BN, p.cout - first_column) * kLine;
    barrier_expect(shared.full + stage, bytes);
    const unsigned char* lines = reinterpret_cast<const unsigned char*>(p.weights) + (size_t(k_tile) * p.cout + first_column) * kLine;
    bulk_copy(shared.tiles + stage * kStage + kTileA, lines, bytes, shared.full + stage);
  }

  __device__ static void fetch(const ConvParams& p, const Shared& shared, int first_column, int weights, int begin, int end) {
    bool leader = threadIdx.x == kMultiply;
    // weights do not depend on the kernel before this one: fetch them while it drains
    if (leader)
      for (int s = 0; s < STAGES && begin + s < end; ++s) fetch_weights(p, shared, s, weights + begin + s, first_column);
    wait_for_previous_kernel();
    const uint64_t* slots = reinterpret_cast<const uint64_t*>(p.slots);
    Sources source = {resolve<const __half>(p.source[0], slots), resolve<const __half>(p.source[1], slots)};
    Walk walk(p, begin);
    for (int k = begin, s = 0, parity = 1; k < end; ++k, walk.next()) {
      barrier_wait(shared.empty + s, parity);
      if (leader && k >= begin + STAGES) fetch_weights(p, shared, s, weights + k, first_column);
      gather_tile<BM>(p, source, walk, shared.rows, shared.tiles + s * kStage);
      barrier_arrive_after_copies(shared.full + s);
      if (++s == STAGES) s = 0, parity ^= 1;
    }
  }

  __device__ static void multiply(const Shared& shared, int tiles, float (&sums)[80]) {
    int lane = threadIdx.x % 32, group = uniform(threadIdx.x / 128);
    uint64_t first = wgmma_tile(shared.tiles);
#pragma unroll
    for (int j = 0; j < 80; ++j) sums[j] = 0.0f;
    for (int k = 0, s = 0, parity = 0, before = 0; k < tiles; ++k) {
      barrier_wait(shared.full + s, parity);
      publish_to_wgmma();
      uint64_t tile = wgmma_from(first, s * (BM + BN), 0);  // BM lines of rows, BN of weights
      wgmma_hold(sums);
      wgmma_begin();
#pragma unroll
      for (int step = 0; step < kTileK; step += 16)
        wgmma160(sums, wgmma_from(tile, group * 64, step), wgmma_from(tile, BM, step));
      wgmma_commit();
      wgmma_wait<1>();  // the products of the turn before: their stage may be refilled
      wgmma_hold(sums);
      if (lane == 0 && k > 0) barrier_arrive(shared.empty + before);
      before = s;
      if (++s == STAGES) s = 0, parity ^= 1;
    }
    wgmma_wait<0>();
    wgmma_hold(sums);
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

  template <bool GATED>
  __device__ static void finish_tile(const StagedFinish<BM, BN, GATED>& tile, const float (&sums)[80], unsigned char* memory) {
    float* staged = reinterpret_cast<float*>(memory);
    stage(sums, staged);
    cp_async_wait<0>();
    sync_first<kMultiply>();
    tile(staged, kPitch);
  }

  __device__ static void work(const ConvParams& p, const Shared& shared, unsigned char* memory, int live, int first_row, int first_column, int tiles) {
    wait_for_previous_kernel();
    Finish finish(p.epilogue, reinterpret_cast<const uint64_t*>(p.slots), live);
    RowNorms norms = {};
    if (p.splits == 1 && p.epilogue.norm_parts) {
      if (p.epilogue.flags & kGeglu) row_norms<true>(p, live, first_row, norms);
      else row_norms<false>(p, live, first_row, norms);
    }
    float sums[80];
    multiply(shared, tiles, sums);
    if (p.splits > 1) return store_sums<BN>(p, live * p.images, first_row, first_column, sums);
    sync_first<kMultiply>();  // everybody has read the last stages: their memory takes the sums
    unsigned char* near = memory + kStagedTile;
    if (finish.gated()) finish_tile<true>({p, finish, live, first_row, first_column, norms, near}, sums, memory);
    else finish_tile<false>({p, finish, live, first_row, first_column, norms, near}, sums, memory);
  }

  __device__ static void run(const ConvParams& p) {
    DYNAMIC_SHARED(memory);
    Shared shared(memory);
    let_next_kernel_start();
    int live = resolve(p.live), first_row = blockIdx.y * BM, first_column = blockIdx.x * BN;
    if (first_row >= live * p.images) return wait_for_previous_kernel();
    if (threadIdx.x == 0) {
      for (int s = 0; s < STAGES; ++s) {
        barrier_init(shared.full + s, kFetch + 1);       // every fetching thread, and the announcement of the weights' bytes
        barrier_init(shared.empty + s, kMultiply / 32);  // every multiplying warp
      }
      publish_to_wgmma();  // the copy engine too
    }
    load_row_table<BM, kMultiply + kFetch>(p, live, first_row, shared.rows);
    __syncthreads();
    int total = k_tiles(p);
    int begin = int(int64_t(total) * blockIdx.z / p.splits), end = int(int64_t(total) * (blockIdx.z + 1) / p.splits);

    if (threadIdx.x >= kMultiply) fetch(p, shared, first_column, first_k_tile(p, live, first_row), begin, end);
    else work(p, shared, memory, live, first_row, first_column, end - begin);
  }
};

#define KERNEL(NAME, GROUPS, STAGES, BLOCKS)                                                                        \
  extern "C" __global__ void __launch_bounds__(GROUPS * 128 + 128, BLOCKS) NAME(const __grid_constant__ ConvParams p) { \
    WarpgroupConv<GROUPS, STAGES>::run(p);                                                                          \
  }
KERNEL(sparse_conv_wgmma_64x160, 1, 4, 2)
KERNEL(sparse_conv_wgmma_128x160, 2, 5, 1)
KERNEL(sparse_conv_wgmma_192x160, 3, 5, 1)
