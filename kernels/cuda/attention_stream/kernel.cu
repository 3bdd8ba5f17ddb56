// only: sm_90a
// attention_wgmma with longer key tiles and work dealt out evenly: as many blocks as the GPU runs at once share all tiles of keys of all heads.
// One warpgroup fetches; the others take 64 queries each and take turns, so that one multiplies while another is at its softmax.
#include "attention.cuh"
#include "conv.cuh"
#include "stream.cuh"
#include "wgmma.cuh"

constexpr int D = 64, kTileKeys = 128, kTile = kTileKeys * kLine;

template <int GROUPS, int STAGES>
struct StreamAttention {
  static constexpr int kQueries = GROUPS * 64, kMultiply = GROUPS * 128, kFetch = 128, kAskedTile = kQueries * kLine;
  using Sums = Part<D / 8 + 1, kMultiply>;

  struct Shared {
    unsigned char *tiles, *queries;                // STAGES pairs of keys and values; two tiles of queries
    uint64_t *full, *empty, *asked, *answered;     // of a pair; of a tile of queries
    __device__ explicit Shared(unsigned char* memory)
        : tiles(memory),
          queries(memory + STAGES * 2 * kTile),
          full(reinterpret_cast<uint64_t*>(queries + 2 * kAskedTile)),
          empty(full + STAGES),
          asked(empty + STAGES),
          answered(asked + 2) {}
  };

  // Place in a ring of stages.
  template <int COUNT>
  struct Ring {
    int stage = 0, parity = 0;
    __device__ void next() {
      if (++stage == COUNT) stage = 0, parity ^= 1;
    }
  };

  // Queries [first, first + kQueries) of the head that `block` is about.
  struct Task {
    int first, index;
    __device__ Task(int tile, int row_tiles) : index(tile / row_tiles) { first = (tile - index * row_tiles) * kQueries; }
  };

  // Where four rows of a tile's keys are, looked up before they are needed: a look into the map takes as long as the copies.
  static constexpr int kLookRows = 4, kLooks = kTileKeys / (kFetch / 8) / kLookRows;
  __device__ static void look(const AttentionBlock& block, int t, int turn, int (&rows)[kLookRows]) {
    KeyList list = block.list(t);
    int first = threadIdx.x % kFetch / 8 + turn * kLookRows * (kFetch / 8);
    if (list.map && list.left >= kTileKeys) {
#pragma unroll
      for (int j = 0; j < kLookRows; ++j) rows[j] = list.map[first + j * (kFetch / 8)];
      return;
    }
#pragma unroll
    for (int j = 0; j < kLookRows; ++j) {
      int r = first + j * (kFetch / 8);
      rows[j] = r >= list.left ? -1 : list.map ? list.map[r] : list.first + r;
    }
  }
  template <bool ALL>  // all rows are there
  __device__ static void copy_rows(const AttentionParams& p, const AttentionBlock& block, int t, int turn, const int (&rows)[kLookRows], unsigned char* stage) {
    bool fresh = t >= block.map_tiles;
    int thread = threadIdx.x % kFetch, chunk = thread % 8;
    uint32_t stride = (fresh ? p.fresh_stride : p.key_stride) * 2;
    const char* keys = reinterpret_cast<const char*>((fresh ? block.fresh_key : block.key) + chunk * 8);
    const char* values = keys + ptrdiff_t(fresh ? p.fresh_value_offset : p.value_offset) * 2;
    stage += swizzled(thread / 8, chunk) + turn * kLookRows * (kFetch / 8) * kLine;
#pragma unroll
    for (int j = 0; j < kLookRows; ++j) {
      unsigned char* to = stage + j * (kFetch / 8) * kLine;
      uint64_t offset = uint64_t(uint32_t(ALL ? rows[j] : max(rows[j], 0))) * stride;
      if (ALL) {
        cp_async16(to, keys + offset);
        cp_async16(to + kTile, values + offset);
      } else {
        cp_async16(to, keys + offset, rows[j] >= 0 ? 16 : 0);
        cp_async16(to + kTile, values + offset, rows[j] >= 0 ? 16 : 0);
      }
    }
  }

  __device__ static void fetch(const AttentionParams& p, const Shared& shared, Share share, int row_tiles) {
    Ring<STAGES> keys;
    Ring<2> asks;
    for (Segment segment; share.next(segment); asks.next()) {
      Task task(segment.tile, row_tiles);
      AttentionBlock block(p, D, task.index, kTileKeys);
      int ahead[kLookRows], rows[kLookRows];
      look(block, segment.begin, 0, ahead);
      barrier_wait(shared.answered + asks.stage, asks.parity ^ 1);
      load_lines<kQueries, kFetch>(shared.queries + asks.stage * kAskedTile, block.query, [&](int r) {
        return task.first + r < block.queries ? block.query + block.query_row(block.image, task.first + r) * p.query_stride : nullptr;
      });
      barrier_arrive_after_copies(shared.asked + asks.stage);
      for (int t = segment.begin; t < segment.end; ++t, keys.next()) {
#pragma unroll
        for (int turn = 0; turn < kLooks; ++turn) {
#pragma unroll
          for (int j = 0; j < kLookRows; ++j) rows[j] = ahead[j];
          if (turn + 1 < kLooks) look(block, t, turn + 1, ahead);
          else if (t + 1 < segment.end) look(block, t + 1, 0, ahead);
          if (turn == 0) barrier_wait(shared.empty + keys.stage, keys.parity ^ 1);
          unsigned char* stage = shared.tiles + keys.stage * 2 * kTile;
          if (block.keys_left(t) >= kTileKeys) copy_rows<true>(p, block, t, turn, rows, stage);
          else copy_rows<false>(p, block, t, turn, rows, stage);
        }
        barrier_arrive_after_copies(shared.full + keys.stage);
      }
    }
  }

  struct State {
    float sums[D / 8][4], highest[2], weight[2];
  };

  // Products of the groups take turns: each issues its own when the one before has.
  __device__ static void await_turn(int group) { named_wait<256>(2 + group); }
  __device__ static void pass_turn(int group) { named_arrive<256>(2 + (group + 1) % GROUPS); }

  __device__ static void attend(const AttentionParams& p, const AttentionBlock& block, const Shared& shared, const Segment& segment,
                                uint64_t queries, Ring<STAGES>& ring, State& state) {
    int lane = threadIdx.x % 32, group = uniform(threadIdx.x / 128);
    uint64_t first = wgmma_tile(shared.tiles);
    queries = wgmma_from(queries, group * 64, 0);
    float scores[kTileKeys / 8][4], fade[2];
    uint32_t weights[kTileKeys / 16][4];

    auto arrive = [&]() {  // the ring's tile is here
      barrier_wait(shared.full + ring.stage, ring.parity);
      publish_to_wgmma();
      return wgmma_from(first, ring.stage * 2 * kTileKeys, 0);
    };
    auto score = [&](uint64_t keys) {
      wgmma_begin();
      wgmma128<0>(scores, queries, keys);
#pragma unroll
      for (int d = 16; d < D; d += 16) wgmma128<1>(scores, wgmma_from(queries, 0, d), wgmma_from(keys, 0, d));
      wgmma_commit();
    };
    auto add_values = [&](uint64_t keys) {  // their values lie behind them
#pragma unroll
      for (int n = 0; n < kTileKeys / 16; ++n) wgmma64(state.sums, weights[n], wgmma_from(keys, kTileKeys + n * 16, 0));
      wgmma_commit();
    };
    auto soften_tile = [&](int t) {
      wgmma_hold(scores);
      drop_tail(scores, block.keys_left(t), lane);
      soften(scores, p.scale_log2, state.highest, state.weight, fade);
    };
    auto take_weights = [&]() {
#pragma unroll
      for (int n = 0; n < kTileKeys / 16; ++n) weights_of(scores, n * 2, weights[n]);
    };

    uint64_t before = arrive();
    score(before);
    wgmma_wait<0>();
    soften_tile(segment.begin);
    take_weights();
    int left_stage = ring.stage;
    ring.next();
    for (int t = segment.begin + 1; t < segment.end; ++t) {
      uint64_t now = arrive();
      await_turn(group);
      score(now);
      add_values(before);  // runs while the scores of t are softened
      pass_turn(group);
      wgmma_wait<1>();
      soften_tile(t);
      wgmma_wait<0>();
      wgmma_hold(state.sums);
      if (lane == 0) barrier_arrive(shared.empty + left_stage);
      fade_sums(state.sums, fade);
      take_weights();
      before = now, left_stage = ring.stage;
      ring.next();
    }
    wgmma_begin();
    add_values(before);
    wgmma_wait<0>();
    wgmma_hold(state.sums);
    if (lane == 0) barrier_arrive(shared.empty + left_stage);
  }

  // Joins another block's part of the same rows.
  __device__ static void join(const AttentionParams& p, int rank, State& state) {
    Sums part(p.partial, rank);
    Sums::await(rank);
    float about[4], fade[2], other[2], sums[4];
    part.load(D / 8, about);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = fmaxf(state.highest[half], about[half]), shift = top == -INFINITY ? 0.0f : top * p.scale_log2;
      fade[half] = exp2_fast(fmaf(state.highest[half], p.scale_log2, -shift));
      other[half] = exp2_fast(fmaf(about[half], p.scale_log2, -shift));
      state.highest[half] = top;
      state.weight[half] = state.weight[half] * fade[half] + about[2 + half] * other[half];
    }
#pragma unroll
    for (int d = 0; d < D / 8; ++d) {
      part.load(d, sums);
#pragma unroll
      for (int j = 0; j < 4; ++j) state.sums[d][j] = state.sums[d][j] * fade[j / 2] + sums[j] * other[j / 2];
    }
  }
  __device__ static void leave(const AttentionParams& p, int rank, const State& state) {
    Sums part(p.partial, rank);
    const float about[4] = {state.highest[0], state.highest[1], state.weight[0], state.weight[1]};
#pragma unroll
    for (int d = 0; d < D / 8; ++d) part.store(d, state.sums[d]);
    part.store(D / 8, about);
    Sums::publish(rank);
  }

  __device__ static void answer(const AttentionParams& p, const Shared& shared, Share share, int row_tiles) {
    int lane = threadIdx.x % 32;
    Ring<STAGES> keys;
    Ring<2> asks;
    if (threadIdx.x / 128 == GROUPS - 1) pass_turn(GROUPS - 1);
    for (Segment segment; share.next(segment); asks.next()) {
      Task task(segment.tile, row_tiles);
      AttentionBlock block(p, D, task.index, kTileKeys);
      State state = {{}, {-INFINITY, -INFINITY}, {}};
      barrier_wait(shared.asked + asks.stage, asks.parity);
      attend(p, block, shared, segment, wgmma_tile(shared.queries + asks.stage * kAskedTile), keys, state);
      if (lane == 0) barrier_arrive(shared.answered + asks.stage);
      if (!share.owns(segment)) {
        leave(p, share.rank, state);
        continue;
      }
      if (!share.whole(segment)) share.others(segment, [&](int rank) { join(p, rank, state); });
      store_rows<D>(block, task.first + threadIdx.x / 32 * 16, lane, state.sums, state.highest, state.weight);
    }
  }

  __device__ static void run(const AttentionParams& p) {
    DYNAMIC_SHARED(memory);
    Shared shared(memory);
    let_next_kernel_start();
    if (threadIdx.x == 0) {
      for (int s = 0; s < STAGES; ++s) barrier_init(shared.full + s, kFetch), barrier_init(shared.empty + s, kMultiply / 32);
      for (int s = 0; s < 2; ++s) barrier_init(shared.asked + s, kFetch), barrier_init(shared.answered + s, kMultiply / 32);
    }
    __syncthreads();
    wait_for_previous_kernel();
    AttentionBlock any(p, D, 0, kTileKeys);
    int row_tiles = (any.queries + kQueries - 1) / kQueries;
    Share share(row_tiles * p.images * p.heads, any.tiles);
    if (threadIdx.x >= kMultiply) {
      keep_registers<GROUPS == 3 ? 32 : 40>();
      fetch(p, shared, share, row_tiles);
    } else {
      take_registers<GROUPS == 3 ? 160 : 232>();
      answer(p, shared, share, row_tiles);
    }
  }
};

#define KERNEL(NAME, GROUPS, STAGES)                                                                                   \
  extern "C" __global__ void __launch_bounds__(GROUPS * 128 + 128, 1) NAME(const __grid_constant__ AttentionParams p) { \
    StreamAttention<GROUPS, STAGES>::run(p);                                                                           \
  }
KERNEL(attention_d64_stream_192, 3, 4)
KERNEL(attention_d64_stream_128, 2, 5)
