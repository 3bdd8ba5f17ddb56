// only: sm_90a
// sparse_conv_wgmma with work dealt out evenly: as many blocks as the GPU runs at once share all K tiles of all output tiles, so that no multiprocessor
// waits for a last wave. While a tile's sums go through the epilogue, the next one's stages are being fetched.
#include "conv.cuh"
#include "finish.cuh"
#include "stream.cuh"

template <int GROUPS, int STAGES>
struct StreamConv {
  static constexpr int BM = GROUPS * 64, BN = 160, kMultiply = GROUPS * 128, kFetch = 128, kSums = BN / 2;
  static constexpr int kTileA = BM * kLine, kTileB = BN * kLine, kStage = kTileA + kTileB;
  using Sums = Part<kSums / 4, kMultiply>;

  struct Shared {
    unsigned char* tiles;
    uint64_t *full, *empty;
    float* staged;
    int32_t* rows;
    __device__ explicit Shared(unsigned char* memory)
        : tiles(memory),
          full(reinterpret_cast<uint64_t*>(memory + STAGES * kStage)),
          empty(full + STAGES),
          staged(reinterpret_cast<float*>(memory + STAGES * kStage + 128)),
          rows(reinterpret_cast<int32_t*>(memory + STAGES * kStage + 128 + GROUPS * kStagedBytes)) {}
  };
  struct Ring {
    int stage = 0, parity = 0;
    __device__ void next() {
      if (++stage == STAGES) stage = 0, parity ^= 1;
    }
  };
  // Columns run fastest: blocks that work at the same time read the same rows.
  struct Place {
    int first_row, first_column;
    __device__ Place(int tile, int column_tiles) {
      int row_tile = tile / column_tiles;
      first_row = row_tile * BM, first_column = (tile - row_tile * column_tiles) * BN;
    }
  };

  // Weights are stored swizzled, so a tile is one run of memory for the copy engine. Columns past cout stay undefined and unused.
  __device__ static void fetch_weights(const ConvParams& p, const Shared& shared, int stage, int k_tile, int first_column) {
    int bytes = min(BN, p.cout - first_column) * kLine;
    barrier_expect(shared.full + stage, bytes);
    const unsigned char* lines = reinterpret_cast<const unsigned char*>(p.weights) + (size_t(k_tile) * p.cout + first_column) * kLine;
    bulk_copy(shared.tiles + stage * kStage + kTileA, lines, bytes, shared.full + stage);
  }
  __device__ static void sync_fetching() { named_wait<kFetch>(2); }

  __device__ static void fetch(const ConvParams& p, const Shared& shared, Share share, int live, int column_tiles) {
    bool leader = threadIdx.x == kMultiply, waited = false;
    const uint64_t* slots = reinterpret_cast<const uint64_t*>(p.slots);
    Sources source = {};
    Ring ring;
    for (Segment segment; share.next(segment);) {
      Place place(segment.tile, column_tiles);
      int weights = first_k_tile(p, live, place.first_row);
      int early = waited ? segment.begin : min(segment.end, segment.begin + STAGES);
      // weights and tables do not depend on the kernel before this one: fetch them while it drains
      if (leader)
        for (int k = segment.begin; k < early; ++k) fetch_weights(p, shared, k - segment.begin, weights + k, place.first_column);
      sync_fetching();  // everybody has read the tile before's rows
      load_row_table<BM, kFetch>(p, live, place.first_row, shared.rows);
      sync_fetching();
      if (!waited) {
        wait_for_previous_kernel();
        source = {resolve<const __half>(p.source[0], slots), resolve<const __half>(p.source[1], slots)};
        waited = true;
      }
      Walk walk(p, segment.begin);
      for (int k = segment.begin; k < segment.end; ++k, walk.next(), ring.next()) {
        barrier_wait(shared.empty + ring.stage, ring.parity ^ 1);
        if (leader && k >= early) fetch_weights(p, shared, ring.stage, weights + k, place.first_column);
        gather_tile<BM>(p, source, walk, shared.rows, shared.tiles + ring.stage * kStage);
        barrier_arrive_after_copies(shared.full + ring.stage);
      }
    }
    if (!waited) wait_for_previous_kernel();
  }

  __device__ static void multiply(const Shared& shared, int tiles, Ring& ring, float (&sums)[kSums]) {
    int lane = threadIdx.x % 32, group = uniform(threadIdx.x / 128);
    uint64_t first = wgmma_tile(shared.tiles);
#pragma unroll
    for (int j = 0; j < kSums; ++j) sums[j] = 0.0f;
    int before = 0;
    for (int k = 0; k < tiles; ++k, ring.next()) {
      barrier_wait(shared.full + ring.stage, ring.parity);
      publish_to_wgmma();
      uint64_t tile = wgmma_from(first, ring.stage * (BM + BN), 0);  // BM lines of rows, BN of weights
      wgmma_hold(sums);
      wgmma_begin();
#pragma unroll
      for (int step = 0; step < kTileK; step += 16)
        wgmma160(sums, wgmma_from(tile, group * 64, step), wgmma_from(tile, BM, step));
      wgmma_commit();
      wgmma_wait<1>();  // the products of the turn before: their stage may be refilled
      wgmma_hold(sums);
      if (lane == 0 && k > 0) barrier_arrive(shared.empty + before);
      before = ring.stage;
    }
    wgmma_wait<0>();
    wgmma_hold(sums);
    if (lane == 0) barrier_arrive(shared.empty + before);
  }

  __device__ static void join(const ConvParams& p, int rank, float (&sums)[kSums]) {
    Sums part(p.workspace, rank);
    Sums::await(rank);
    float add[4];
#pragma unroll
    for (int n = 0; n < kSums / 4; ++n) {
      part.load(n, add);
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[n * 4 + j] += add[j];
    }
  }
  __device__ static void leave(const ConvParams& p, int rank, const float (&sums)[kSums]) {
    Sums part(p.workspace, rank);
#pragma unroll
    for (int n = 0; n < kSums / 4; ++n) part.store(n, sums + n * 4);
    Sums::publish(rank);
  }

  __device__ static void work(const ConvParams& p, const Shared& shared, Share share, int live, int column_tiles) {
    wait_for_previous_kernel();
    Ring ring;
    float sums[kSums];
    for (Segment segment; share.next(segment);) {
      Place place(segment.tile, column_tiles);
      RowNorms norms = {};
      if (p.epilogue.norm_parts && share.owns(segment)) row_norms<true>(p, live, place.first_row, norms);
      multiply(shared, segment.end - segment.begin, ring, sums);
      if (!share.owns(segment)) {
        leave(p, share.rank, sums);
        continue;
      }
      if (!share.whole(segment)) share.others(segment, [&](int rank) { join(p, rank, sums); });
      Finish finish(p.epilogue, reinterpret_cast<const uint64_t*>(p.slots), live);
      finish_sums<BN>(p, finish, live, place.first_row, place.first_column, norms, sums, shared.staged);
    }
  }

  __device__ static void run(const ConvParams& p) {
    DYNAMIC_SHARED(memory);
    Shared shared(memory);
    let_next_kernel_start();
    if (threadIdx.x == 0) {
      for (int s = 0; s < STAGES; ++s) {
        barrier_init(shared.full + s, kFetch + 1);       // every fetching thread, and the announcement of the weights' bytes
        barrier_init(shared.empty + s, kMultiply / 32);  // every multiplying warp
      }
      publish_to_wgmma();  // the copy engine too
    }
    __syncthreads();
    int live = resolve(p.live), column_tiles = (p.cout + BN - 1) / BN;
    Share share((live * p.images + BM - 1) / BM * column_tiles, k_tiles(p));
    if (threadIdx.x >= kMultiply) {
      keep_registers<GROUPS == 1 ? 56 : GROUPS == 2 ? 64 : 32>();
      fetch(p, shared, share, live, column_tiles);
    } else {
      take_registers<GROUPS == 1 ? 200 : GROUPS == 2 ? 208 : 160>();
      work(p, shared, share, live, column_tiles);
    }
  }
};

#define KERNEL(NAME, GROUPS, STAGES, BLOCKS)                                                                           \
  extern "C" __global__ void __launch_bounds__(GROUPS * 128 + 128, BLOCKS) NAME(const __grid_constant__ ConvParams p) { \
    StreamConv<GROUPS, STAGES>::run(p);                                                                                \
  }
KERNEL(sparse_conv_stream_192x160, 3, 4, 1)
KERNEL(sparse_conv_stream_128x160, 2, 5, 1)
KERNEL(sparse_conv_stream_64x160, 1, 3, 2)  // one block's epilogue beside the other's products
