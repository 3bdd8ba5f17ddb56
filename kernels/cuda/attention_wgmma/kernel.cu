// only: sm_90a
// attention with Hopper's warpgroup products, head dimension 64: same parameters, same results to rounding.
#include "attention.cuh"
#include "conv.cuh"
#include "wgmma.cuh"

constexpr int D = 64, kStages = 4, kTile = kKeys * kLine;

// COUNT rows as swizzled 128-byte lines, zeros where there is no row: at(r) is row r's head, or null.
template <int COUNT, int THREADS, typename At>
FISEC_DEVICE void load_lines(unsigned char* tile, const __half* anywhere, At at) {
#pragma unroll
  for (int j = threadIdx.x; j < COUNT * 8; j += THREADS) {
    int r = j / 8, chunk = j % 8;
    const __half* row = at(r);
    cp_async16(tile + swizzled(r, chunk), row ? row + chunk * 8 : anywhere, row ? 16 : 0);
  }
}

// GROUPS warpgroups of 64 queries share the tiles of keys. Two blocks live on a multiprocessor, so that one's
// softmax runs beside the other's products.
template <int GROUPS>
__device__ void attend(const AttentionParams& p) {
  constexpr int kThreads = GROUPS * 128;
  DYNAMIC_SHARED(memory);
  let_next_kernel_start();
  wait_for_previous_kernel();
  AttentionBlock block(p, D);
  int first = blockIdx.x * GROUPS * 64, lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16;
  if (first >= block.queries) return;

  unsigned char* queries = memory + kStages * 2 * kTile;
  load_lines<GROUPS * 64, kThreads>(queries, block.query, [&](int r) {
    return first + r < block.queries ? block.query + block.query_row(block.image, first + r) * p.query_stride : nullptr;
  });
  cp_async_commit();  // before the keys: arrived when the first tile of keys has
  const unsigned char* group_queries = queries + threadIdx.x / 128 * 64 * kLine;

  auto load_pair = [&](int t) {
    unsigned char* stage = memory + (t - block.begin) % kStages * 2 * kTile;
    if (t < block.end) {
      KeyRows rows = block.keys_of(t);
      load_lines<kKeys, kThreads>(stage, rows.first, [&](int r) { return r < rows.left ? rows.first + r * rows.stride : nullptr; });
      load_lines<kKeys, kThreads>(stage + kTile, rows.first, [&](int r) { return r < rows.left ? rows.first + r * rows.stride + rows.value_offset : nullptr; });
    }
    cp_async_commit();
  };
  load_pair(block.begin);
  load_pair(block.begin + 1);
  float scores[kKeys / 8][4], sums[D / 8][4] = {}, highest[2] = {-INFINITY, -INFINITY}, weight[2] = {}, fade[2];
  uint32_t weights[kKeys / 16][4];
  auto stage_of = [&](int t) { return memory + (t - block.begin) % kStages * 2 * kTile; };
  auto arrive = [&]() {
    cp_async_wait<1>();
    publish_to_wgmma();
    __syncthreads();  // tile t has arrived for all; all are done with tile t - 2, so its stage may be refilled
  };
  auto score = [&](int t) {
    unsigned char* keys = stage_of(t);
    wgmma_begin();
    wgmma64<0>(scores, wgmma_tile(group_queries, 0), wgmma_tile(keys, 0));
#pragma unroll
    for (int d = 16; d < D; d += 16) wgmma64<1>(scores, wgmma_tile(group_queries, d), wgmma_tile(keys, d));
    wgmma_commit();
  };
  auto add_values = [&](int t) {
    unsigned char* values = stage_of(t) + kTile;
#pragma unroll
    for (int n = 0; n < kKeys / 16; ++n) wgmma64(sums, weights[n], wgmma_tile(values + n * 16 * kLine, 0));
    wgmma_commit();
  };
  auto soften_tile = [&](int t) {
    wgmma_hold(scores);
    drop_keys(scores, block.dropped(t), lane);
    soften(scores, p.scale_log2, highest, weight, fade);
  };
  auto take_weights = [&]() {
#pragma unroll
    for (int n = 0; n < kKeys / 16; ++n) weights_of(scores, n * 2, weights[n]);
  };

  if (block.begin < block.end) {
    arrive();
    load_pair(block.begin + 2);
    score(block.begin);
    wgmma_wait<0>();
    soften_tile(block.begin);
    take_weights();
    for (int t = block.begin + 1; t < block.end; ++t) {
      arrive();
      load_pair(t + 2);
      score(t);
      add_values(t - 1);  // runs while the scores of t are softened
      wgmma_wait<1>();
      soften_tile(t);
      wgmma_wait<0>();
      wgmma_hold(sums);
      fade_sums(sums, fade);
      take_weights();
    }
    wgmma_begin();
    add_values(block.end - 1);
    wgmma_wait<0>();
    wgmma_hold(sums);
  }
  store_rows<D>(block, first + warp_row, lane, sums, highest, weight);
}

extern "C" __global__ void __launch_bounds__(256, 2) attention_d64_wgmma(const __grid_constant__ AttentionParams p) { attend<2>(p); }
extern "C" __global__ void __launch_bounds__(128, 3) attention_d64_wgmma_narrow(const __grid_constant__ AttentionParams p) { attend<1>(p); }
