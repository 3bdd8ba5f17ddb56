// attention for heads wider than a warp's registers hold (a VAE's one head of 512): same parameters, same results to rounding as `attention`.
// Eight warps share 64 queries. Warp w takes rows w % 4 * 16 on: of the scores, half of a tile's keys; of the values, half of the columns.
// README.md has the contract.
#include "attention.cuh"

template <int D, int KEYS>
struct WideAttention {
  static constexpr int kQueries = 64, kThreads = 256;
  static constexpr int kColumns = D / 2, kOwn = KEYS / 2;  // of a warp: columns of the values, keys of the scores
  static constexpr int kChunks = D / 8;                    // 16-byte chunks of a row
  // An odd number of chunks per row: eight rows of one chunk column then lie in eight different bank groups.
  static constexpr int kPitch = (kChunks | 1) * 16, kSharePitch = (KEYS / 8 | 1) * 16;
  static_assert(D % 32 == 0 && KEYS % 32 == 0, "whole matrix steps for every warp");

  struct Shared {
    unsigned char *queries, *keys, *values, *shares;
    float* rows;  // [2][kQueries]: what the two halves know of a row
    __device__ explicit Shared(unsigned char* memory)
        : queries(memory),
          keys(queries + kQueries * kPitch),
          values(keys + KEYS * kPitch),
          shares(values + KEYS * kPitch),
          rows(reinterpret_cast<float*>(shares + kQueries * kSharePitch)) {}
  };

  // COUNT rows into a tile, zeros where there is no row: at(r) is row r's head, or null.
  template <int COUNT, typename At>
  __device__ static void load(unsigned char* tile, const __half* anywhere, At at) {
    for (int j = threadIdx.x; j < COUNT * kChunks; j += kThreads) {
      int r = j / kChunks, chunk = j - r * kChunks;
      const __half* row = at(r);
      cp_async16(tile + r * kPitch + chunk * 16, row ? row + chunk * 8 : anywhere, row ? 16 : 0);
    }
  }
  __device__ static void load_keys(const AttentionBlock& block, int t, const Shared& shared) {
    KeyTile rows = block.tile(t);
    load<KEYS>(shared.keys, rows.base, rows);
  }
  __device__ static void load_values(const AttentionBlock& block, int t, const Shared& shared) {
    KeyTile rows = block.tile(t);
    load<KEYS>(shared.values, rows.base, [&](int r) { return r < rows.left ? rows(r) + rows.value_offset : nullptr; });
  }

  __device__ static void run(const AttentionParams& p) {
    DYNAMIC_SHARED(memory);
    Shared shared(memory);
    let_next_kernel_start();
    wait_for_previous_kernel();
    AttentionBlock block(p, D, blockIdx.y, KEYS);
    int first = blockIdx.x * kQueries, lane = threadIdx.x % 32, row = threadIdx.x / 32 % 4 * 16, half = threadIdx.x / 128;
    if (first >= block.queries) return;
    load<kQueries>(shared.queries, block.query, [&](int r) {
      return first + r < block.queries ? block.query + block.query_row(block.image, first + r) * p.query_stride : nullptr;
    });
    if (block.begin < block.end) load_keys(block, block.begin, shared);
    cp_async_commit();
    if (block.begin < block.end) load_values(block, block.begin, shared);
    cp_async_commit();

    float sums[kColumns / 8][4] = {}, highest[2] = {-INFINITY, -INFINITY}, weight[2] = {}, fade[2];
    for (int t = block.begin; t < block.end; ++t) {
      cp_async_wait<1>();  // queries and keys are here; values may still be on their way
      __syncthreads();
      float scores[kOwn / 8][4] = {};
      score(shared, row, half, lane, scores);
      drop_tail(scores, block.keys_left(t) - half * kOwn, lane);
      tell_tops(shared, row, half, lane, scores);
      __syncthreads();  // nobody reads the keys any more
      if (t + 1 < block.end) load_keys(block, t + 1, shared);
      cp_async_commit();
      soften_and_share(shared, row, half, lane, p.scale_log2, scores, highest, weight, fade);
      cp_async_wait<1>();
      __syncthreads();
      fade_sums(sums, fade);
      add_values(shared, row, half, lane, sums);
      __syncthreads();  // nor the values
      if (t + 1 < block.end) load_values(block, t + 1, shared);
      cp_async_commit();
    }
    cp_async_wait<0>();
    store(block, shared, first, row, half, lane, sums, highest, weight);
  }

  __device__ static void score(const Shared& shared, int row, int half, int lane, float (&scores)[kOwn / 8][4]) {
#pragma unroll 4
    for (int d = 0; d < D / 16; ++d) {
      uint32_t a[4];
      ldmatrix4(a, shared.queries + (row + lane % 16) * kPitch + (d * 2 + lane / 16) * 16);
#pragma unroll
      for (int n = 0; n < kOwn / 8; n += 2) {
        uint32_t b[4];
        ldmatrix4(b, shared.keys + (half * kOwn + n * 8 + (lane & 7) + (lane >> 4) * 8) * kPitch + (d * 2 + ((lane >> 3) & 1)) * 16);
        mma16816(scores[n], a, b[0], b[1]);
        mma16816(scores[n + 1], a, b[2], b[3]);
      }
    }
  }

  // The highest score of each row among this warp's keys.
  __device__ static void tell_tops(const Shared& shared, int row, int half, int lane, const float (&scores)[kOwn / 8][4]) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      float top = -INFINITY;
#pragma unroll
      for (int n = 0; n < kOwn / 8; ++n) top = fmaxf(top, fmaxf(scores[n][j * 2], scores[n][j * 2 + 1]));
      top = fmaxf(top, shuffle_xor(top, 1));
      top = fmaxf(top, shuffle_xor(top, 2));
      if (lane % 4 == 0) shared.rows[half * kQueries + row + j * 8 + lane / 4] = top;
    }
  }

  // Running softmax, as `soften`, over both warps' keys; weights in f16 to where both find them.
  __device__ static void soften_and_share(const Shared& shared, int row, int half, int lane, float scale_log2, const float (&scores)[kOwn / 8][4],
                                          float (&highest)[2], float (&weight)[2], float (&fade)[2]) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      int r = row + j * 8 + lane / 4;
      float top = fmaxf(highest[j], fmaxf(shared.rows[r], shared.rows[kQueries + r]));
      // a row with no finite score keeps -inf: shift by 0 then, so that -inf - -inf never makes a NaN
      float shift = top == -INFINITY ? 0.0f : top * scale_log2, total = 0.0f;
      fade[j] = exp2_fast(fmaf(highest[j], scale_log2, -shift));
      highest[j] = top;
#pragma unroll
      for (int n = 0; n < kOwn / 8; ++n) {
        float x = exp2_fast(fmaf(scores[n][j * 2], scale_log2, -shift)), y = exp2_fast(fmaf(scores[n][j * 2 + 1], scale_log2, -shift));
        total += x + y;
        *reinterpret_cast<__half2*>(shared.shares + r * kSharePitch + (half * kOwn + n * 8 + lane % 4 * 2) * 2) = __floats2half2_rn(x, y);
      }
      weight[j] = weight[j] * fade[j] + total;
    }
  }

  __device__ static void add_values(const Shared& shared, int row, int half, int lane, float (&sums)[kColumns / 8][4]) {
#pragma unroll
    for (int k = 0; k < KEYS / 16; ++k) {
      uint32_t a[4];
      ldmatrix4(a, shared.shares + (row + lane % 16) * kSharePitch + (k * 2 + lane / 16) * 16);
#pragma unroll
      for (int d = 0; d < kColumns / 16; ++d) {
        uint32_t b[4];
        ldmatrix4_transposed(b, shared.values + (k * 16 + lane % 16) * kPitch + (half * kColumns / 8 + d * 2 + lane / 16) * 16);
        mma16816(sums[d * 2], a, b[0], b[1]);
        mma16816(sums[d * 2 + 1], a, b[2], b[3]);
      }
    }
  }

  // Finished rows, or one split's part of them: as `store_rows`, half of the columns by each of two warps.
  __device__ static void store(const AttentionBlock& block, const Shared& shared, int first, int row, int half, int lane,
                               const float (&sums)[kColumns / 8][4], const float (&highest)[2], const float (&weight)[2]) {
    const AttentionParams& p = block.p;
    __half* output = resolve<__half>(p.output, reinterpret_cast<const uint64_t*>(p.slots)) + block.head * D;
    __syncthreads();
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      float total = weight[j] + shuffle_xor(weight[j], 1);
      total += shuffle_xor(total, 2);
      if (lane % 4 == 0) shared.rows[half * kQueries + row + j * 8 + lane / 4] = total;
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      int r = row + j * 8 + lane / 4, query = first + r, column = half * kColumns + lane % 4 * 2;
      if (query >= block.queries) continue;
      float total = shared.rows[r] + shared.rows[kQueries + r];
      if (p.splits > 1) {
        size_t item = (size_t(blockIdx.z) * p.images + block.image) * block.queries + query;
        float* partial = reinterpret_cast<float*>(p.partial) + (item * p.heads + block.head) * (D + 2);
#pragma unroll
        for (int d = 0; d < kColumns / 8; ++d)
          *reinterpret_cast<float2*>(partial + column + d * 8) = make_float2(sums[d][j * 2], sums[d][j * 2 + 1]);
        if (half == 0 && lane % 4 == 0) *reinterpret_cast<float2*>(partial + D) = make_float2(highest[j] * p.scale_log2, total);
        continue;
      }
      float norm = total > 0.0f ? 1.0f / total : 0.0f;
      __half* to = output + (size_t(block.image) * block.queries + query) * p.output_stride + column;
#pragma unroll
      for (int d = 0; d < kColumns / 8; ++d)
        *reinterpret_cast<__half2*>(to + d * 8) = __floats2half2_rn(sums[d][j * 2] * norm, sums[d][j * 2 + 1] * norm);
    }
  }
};

#define KERNEL(NAME, D, KEYS)                                                                                        \
  extern "C" __global__ void __launch_bounds__(256, 1) attention_wide_##NAME(const __grid_constant__ AttentionParams p) { \
    WideAttention<D, KEYS>::run(p);                                                                                  \
  }
KERNEL(d256, 256, 64)
KERNEL(d512, 512, 64)
KERNEL(d512_small, 512, 32)
