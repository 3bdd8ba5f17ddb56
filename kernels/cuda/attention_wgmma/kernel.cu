// only: sm_90a
// attention with Hopper's warpgroup products, head dimension 64: same parameters, same results to rounding.
#include "attention.cuh"
#include "conv.cuh"
#include "wgmma.cuh"

constexpr int D = 64, kStages = 4, kTile = kKeys * kLine;

// A tile of keys or values: one 128-byte line per key, swizzled.
template <int ROWS, int THREADS>
FISEC_DEVICE void load_lines(const __half* head, int stride, int first, int rows, unsigned char* tile) {
#pragma unroll
  for (int j = threadIdx.x; j < ROWS * 8; j += THREADS) {
    int r = j / 8, chunk = j % 8;
    bool real = first + r < rows;
    cp_async16(tile + swizzled(r, chunk), head + (real ? size_t(first + r) * stride + chunk * 8 : 0), real ? 16 : 0);
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

  load_lines<GROUPS * 64, kThreads>(block.query, p.query_stride, first, block.queries, memory);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  uint32_t query[D / 16][4];
#pragma unroll
  for (int d = 0; d < D / 16; ++d) ldmatrix4(query[d], memory + swizzled(warp_row + lane % 16, d * 2 + lane / 16));
  __syncthreads();

  auto load_pair = [&](int t) {
    unsigned char* stage = memory + (t - block.begin) % kStages * 2 * kTile;
    if (t < block.end) {
      load_lines<kKeys, kThreads>(block.key, p.key_stride, t * kKeys, block.keys, stage);
      load_lines<kKeys, kThreads>(block.value, p.value_stride, t * kKeys, block.keys, stage + kTile);
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
    wgmma64<0, 0>(scores, query[0], wgmma_tile(keys, 0));
#pragma unroll
    for (int d = 1; d < D / 16; ++d) wgmma64<1, 0>(scores, query[d], wgmma_tile(keys, d * 16));
    wgmma_commit();
  };
  auto add_values = [&](int t) {
    unsigned char* values = stage_of(t) + kTile;
#pragma unroll
    for (int n = 0; n < kKeys / 16; ++n) wgmma64<1, 1>(sums, weights[n], wgmma_tile(values + n * 16 * kLine, 0));
    wgmma_commit();
  };
  auto soften_tile = [&](int t) {
    wgmma_hold(scores);
    drop_tail(scores, block.keys - t * kKeys, lane);
    soften(scores, p.scale_log2, highest, weight, fade);
  };
  auto take_weights = [&]() {
#pragma unroll
    for (int n = 0; n < kKeys / 16; ++n) weights_of(scores, n * 2, weights[n]);
  };

  if (block.begin < block.end) {
    arrive();
    score(block.begin);
    load_pair(block.begin + 2);
    wgmma_wait<0>();
    soften_tile(block.begin);
    take_weights();
    for (int t = block.begin + 1; t < block.end; ++t) {
      arrive();
      score(t);
      add_values(t - 1);  // runs while the scores of t are softened
      load_pair(t + 2);
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
  store_rows<D>(p, block, first + warp_row, lane, sums, highest, weight);
}

extern "C" __global__ void __launch_bounds__(256, 2) attention_d64_wgmma(const __grid_constant__ AttentionParams p) { attend<2>(p); }
extern "C" __global__ void __launch_bounds__(128, 3) attention_d64_wgmma_narrow(const __grid_constant__ AttentionParams p) { attend<1>(p); }
