// only: sm_90a
// attention with Hopper's warpgroup products, head dimension 64: same parameters, same results to rounding.
// One warpgroup fetches keys and values, the other takes 64 queries; barriers in shared memory pass the stages between them.
#include "attention.cuh"
#include "conv.cuh"
#include "wgmma.cuh"

constexpr int D = 64, kStages = 4, kTile = kKeys * kLine;

struct WarpgroupAttention {
  static constexpr int kQueries = 64, kMultiply = 128, kFetch = 128;

  struct Shared {
    unsigned char *tiles, *queries;
    uint64_t *full, *empty, *asked;
    __device__ explicit Shared(unsigned char* memory)
        : tiles(memory),
          queries(memory + kStages * 2 * kTile),
          full(reinterpret_cast<uint64_t*>(queries + kQueries * kLine)),
          empty(full + kStages),
          asked(empty + kStages) {}
  };

  __device__ static void fetch(const AttentionParams& p, const AttentionBlock& block, const Shared& shared, int first) {
    load_lines<kQueries, kFetch>(shared.queries, block.query, [&](int r) {
      return first + r < block.queries ? block.query + block.query_row(block.image, first + r) * p.query_stride : nullptr;
    });
    barrier_arrive_after_copies(shared.asked);
    for (int t = block.begin, s = 0, parity = 1; t < block.end; ++t) {
      barrier_wait(shared.empty + s, parity);
      unsigned char* stage = shared.tiles + s * 2 * kTile;
      KeyTile rows = block.tile(t);
      load_lines<kKeys, kFetch>(stage, rows.base, rows);
      load_lines<kKeys, kFetch>(stage + kTile, rows.base, [&](int r) { return r < rows.left ? rows(r) + rows.value_offset : nullptr; });
      barrier_arrive_after_copies(shared.full + s);
      if (++s == kStages) s = 0, parity ^= 1;
    }
  }

  __device__ static void attend(const AttentionParams& p, const AttentionBlock& block, const Shared& shared, int first) {
    int lane = threadIdx.x % 32;
    float scores[kKeys / 8][4], sums[D / 8][4] = {}, highest[2] = {-INFINITY, -INFINITY}, weight[2] = {}, fade[2];
    uint32_t weights[kKeys / 16][4];

    auto arrive = [&](int t) {  // tile t is here
      barrier_wait(shared.full + (t - block.begin) % kStages, (t - block.begin) / kStages & 1);
      publish_to_wgmma();
    };
    auto leave = [&](int t) {  // tile t may be overwritten
      if (lane == 0) barrier_arrive(shared.empty + (t - block.begin) % kStages);
    };
    auto stage_of = [&](int t) { return shared.tiles + (t - block.begin) % kStages * 2 * kTile; };
    auto score = [&](int t) {
      uint64_t asked = wgmma_tile(shared.queries), keys = wgmma_tile(stage_of(t));
      wgmma_begin();
      wgmma64<0>(scores, asked, keys);
#pragma unroll
      for (int d = 16; d < D; d += 16) wgmma64<1>(scores, wgmma_from(asked, 0, d), wgmma_from(keys, 0, d));
      wgmma_commit();
    };
    auto add_values = [&](int t) {
      uint64_t values = wgmma_tile(stage_of(t) + kTile);
#pragma unroll
      for (int n = 0; n < kKeys / 16; ++n) wgmma64(sums, weights[n], wgmma_from(values, n * 16, 0));
      wgmma_commit();
    };
    auto soften_tile = [&](int t) {
      wgmma_hold(scores);
      drop_tail(scores, block.keys_left(t), lane);
      soften(scores, p.scale_log2, highest, weight, fade);
    };
    auto take_weights = [&]() {
#pragma unroll
      for (int n = 0; n < kKeys / 16; ++n) weights_of(scores, n * 2, weights[n]);
    };

    barrier_wait(shared.asked, 0);
    if (block.begin < block.end) {
      arrive(block.begin);
      score(block.begin);
      wgmma_wait<0>();
      soften_tile(block.begin);
      take_weights();
      for (int t = block.begin + 1; t < block.end; ++t) {
        arrive(t);
        score(t);
        add_values(t - 1);  // runs while the scores of t are softened
        wgmma_wait<1>();
        soften_tile(t);
        wgmma_wait<0>();
        wgmma_hold(sums);
        leave(t - 1);
        fade_sums(sums, fade);
        take_weights();
      }
      wgmma_begin();
      add_values(block.end - 1);
      wgmma_wait<0>();
      wgmma_hold(sums);
    }
    store_rows<D>(block, first + threadIdx.x / 32 * 16, lane, sums, highest, weight);
  }

  __device__ static void run(const AttentionParams& p) {
    DYNAMIC_SHARED(memory);
    Shared shared(memory);
    let_next_kernel_start();
    if (threadIdx.x == 0) {
      for (int s = 0; s < kStages; ++s) barrier_init(shared.full + s, kFetch), barrier_init(shared.empty + s, kMultiply / 32);
      barrier_init(shared.asked, kFetch);
    }
    __syncthreads();
    wait_for_previous_kernel();
    AttentionBlock block(p, D, blockIdx.y);
    int first = blockIdx.x * kQueries;
    if (first >= block.queries) return;
    if (threadIdx.x >= kMultiply) fetch(p, block, shared, first);
    else attend(p, block, shared, first);
  }
};

extern "C" __global__ void __launch_bounds__(256, 2) attention_d64_wgmma_narrow(const __grid_constant__ AttentionParams p) { WarpgroupAttention::run(p); }
