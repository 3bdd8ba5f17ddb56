// only: sm_90a
// sparse_conv_wgmma with work dealt out evenly: as many blocks as the GPU runs at once share all K tiles of all output tiles, so that no multiprocessor
// waits for a last wave. While a tile's sums go through the epilogue, the next one's stages are being fetched.
#include "conv.cuh"
#include "finish.cuh"
#include "stream.cuh"
#include "stages.cuh"

// GATED: columns are values and gates.
template <int GROUPS, int STAGES, bool GATED>
struct StreamConv {
  static constexpr int BM = GROUPS * 64, BN = 160, kMultiply = GROUPS * 128, kFetch = 128, kSums = BN / 2;
  using Tiles = Stages<BM, BN, STAGES, kMultiply>;
  using Sums = Part<kSums / 4, kMultiply>;
  // a multiplying warpgroup's: columns on their way out, where they go
  static constexpr int kGroupBytes = kStagedBytes + int(sizeof(Bases));
  // Segments whose added columns are in memory: one is finished while others, of at least one stage each, are fetched.
  static constexpr int kSegments = STAGES + 2, kAddedBytes = kSegments * Columns<BN>::kBytes;
  __device__ static Columns<BN> added(const Tiles& shared, int segment) {
    return Columns<BN>(shared.behind() + GROUPS * kGroupBytes + segment % kSegments * Columns<BN>::kBytes);
  }

  // Columns run fastest: blocks that work at the same time read the same rows.
  struct Tile {
    int first_row, first_column;
    __device__ Tile(const ConvParams& p, int tile) {
      int column_tiles = (p.cout + BN - 1) / BN, row_tile = tile / column_tiles;
      first_row = row_tile * BM, first_column = (tile - row_tile * column_tiles) * BN;
    }
  };
  __device__ static void sync_fetching() { named_wait<kFetch>(2); }

  __device__ static void fetch(const ConvParams& p, const Tiles& shared, int32_t* rows, Share share, int live) {
    bool leader = threadIdx.x == kMultiply, waited = false;
    const uint64_t* slots = reinterpret_cast<const uint64_t*>(p.slots);
    Sources source = {};
    Ring<STAGES> ring;
    const __half* bias = nullptr;
    int row_table = -1, index = 0;
    for (Segment segment; share.next(segment); ++index) {
      Tile tile(p, segment.tile);
      int weights = first_k_tile(p, live, tile.first_row);
      int early = waited ? segment.begin : min(segment.end, segment.begin + STAGES);
      // weights and tables do not depend on the kernel before this one: fetch them while it drains
      if (leader)
#pragma unroll 1
        for (int k = segment.begin; k < early; ++k) shared.fetch_weights(p, k - segment.begin, weights + k, tile.first_column);
      if (row_table != tile.first_row) {
        sync_fetching();  // everybody has read the tile before's rows
        load_row_table<BM, kFetch>(p, live, tile.first_row, rows);
        sync_fetching();
        row_table = tile.first_row;
      }
      if (!waited) {
        wait_for_previous_kernel();
        source = {resolve<const __half>(p.source[0], slots), resolve<const __half>(p.source[1], slots)};
        bias = resolve<const __half>(p.epilogue.bias, slots);
        waited = true;
      }
      Walk walk(p, segment.begin);
#pragma unroll 1
      for (int k = segment.begin; k < segment.end; ++k, walk.next(), ring.next()) {
        barrier_wait(shared.empty + ring.stage, ring.parity ^ 1);
        if (k == 0) added(shared, index).template bring<GATED>(p, bias, tile.first_column);  // only its owner finishes a tile
        if (leader && k >= early) shared.fetch_weights(p, ring.stage, weights + k, tile.first_column);
        gather_tile<BM>(p, source, walk, rows, shared.tiles + ring.stage * Tiles::kStage);
        barrier_arrive_after_copies(shared.full + ring.stage);
      }
    }
    if (!waited) wait_for_previous_kernel();
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

  __device__ static void work(const ConvParams& p, const Tiles& shared, unsigned char* memory, Share share, int live) {
    wait_for_previous_kernel();
    int group = uniform(threadIdx.x / 128), normed = -1;
    memory += group * kGroupBytes;
    Bases* bases = reinterpret_cast<Bases*>(memory + kStagedBytes);
    if (threadIdx.x % 128 == 0) *bases = Bases(p.epilogue, reinterpret_cast<const uint64_t*>(p.slots));
    named_wait<128>(4 + group);
    Finish finish(p.epilogue, *bases);
    Finish::RowNorm norm = {};
    Ring<STAGES> ring;
    float sums[kSums];
    int index = 0;
    for (Segment segment; share.next(segment); ++index) {
      Tile tile(p, segment.tile);
      bool owns = share.owns(segment);
      if (GATED && owns && p.epilogue.norm_parts && normed != tile.first_row) norm = row_norm(p, live, normed = tile.first_row);
      shared.multiply(segment.end - segment.begin, ring, sums);
      if (!owns) {
        leave(p, share.rank, sums);
        continue;
      }
      if (!share.whole(segment)) share.others(segment, [&](int rank) { join(p, rank, sums); });
      finish_sums<BN, GATED>(p, finish, live, tile.first_row, tile.first_column, sums, group, reinterpret_cast<float*>(memory), added(shared, index), norm);
    }
  }

  __device__ static void run(const ConvParams& p) {
    DYNAMIC_SHARED(memory);
    Tiles shared(memory);
    let_next_kernel_start();
    shared.init();
    __syncthreads();
    int live = resolve(p.live), column_tiles = (p.cout + BN - 1) / BN;
    Share share((live * p.images + BM - 1) / BM * column_tiles, k_tiles(p));
    if (threadIdx.x >= kMultiply) {
      keep_registers<GROUPS < 3 ? 64 : 32>();
      fetch(p, shared, reinterpret_cast<int32_t*>(shared.behind() + GROUPS * kGroupBytes + kAddedBytes), share, live);
    } else {
      take_registers<GROUPS == 1 ? 192 : GROUPS == 2 ? 208 : 160>();
      work(p, shared, shared.behind(), share, live);
    }
  }
};

#define KERNEL(NAME, GROUPS, STAGES, BLOCKS, GATED)                                                                    \
  extern "C" __global__ void __launch_bounds__(GROUPS * 128 + 128, BLOCKS) NAME(const __grid_constant__ ConvParams p) { \
    StreamConv<GROUPS, STAGES, GATED>::run(p);                                                                         \
  }
KERNEL(sparse_conv_stream_192x160, 3, 4, 1, false)
KERNEL(sparse_conv_stream_128x160, 2, 5, 1, false)
KERNEL(sparse_conv_stream_64x160, 1, 3, 2, false)  // one block's epilogue beside the other's products
KERNEL(sparse_conv_stream_192x160_gated, 3, 4, 1, true)
KERNEL(sparse_conv_stream_128x160_gated, 2, 5, 1, true)
KERNEL(sparse_conv_stream_64x160_gated, 1, 3, 2, true)
