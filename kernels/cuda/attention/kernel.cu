// Flash attention of packed queries over full (or packed) keys and values:
//   out[i] = softmax(scale * q[i] . k^T) v      f16 in and out, f32 scores, softmax and sums
// README.md has the contract.
#include "attention.cuh"

constexpr int kWarps = 4, kThreads = 32 * kWarps;

// D: head dimension; MF: 16-row fragments per warp, so a block takes 64 * MF queries.
template <int D, int MF>
struct Attention {
  static constexpr int kQueries = kWarps * 16 * MF;
  static constexpr int kChunks = (D + 15) / 16 * 2;  // 16-byte chunks of a row, D padded with zeros to whole matrix steps
  static constexpr int kSteps = kChunks / 2;
  // An odd number of chunks per row: eight rows of one chunk column then lie in eight different bank groups.
  static constexpr int kPitch = (kChunks | 1) * 16;
  static constexpr int kTile = kKeys * kPitch;
  static constexpr int kStages = 2;
  static_assert(kQueries * kPitch <= 2 * kStages * kTile, "queries pass through the tiles' memory");

  // COUNT rows into a tile, zeros past D and where there is no row: at(r) is row r's head, or null.
  template <int COUNT, typename At>
  __device__ static void load(unsigned char* tile, const __half* anywhere, At at) {
    for (int j = threadIdx.x; j < COUNT * kChunks; j += kThreads) {
      int r = j / kChunks, chunk = j - r * kChunks;
      const __half* row = chunk * 8 < D ? at(r) : nullptr;
      cp_async16(tile + r * kPitch + chunk * 16, row ? row + chunk * 8 : anywhere, row ? 16 : 0);
    }
  }
  __device__ static void load_pair(const AttentionBlock& block, int t, unsigned char* stage) {
    KeyTile rows = block.tile(t);
    load<kKeys>(stage, rows.base, rows);
    load<kKeys>(stage + kTile, rows.base, [&](int r) { return r < rows.left ? rows(r) + rows.value_offset : nullptr; });
  }

  __device__ static void run(const AttentionParams& p) {
    DYNAMIC_SHARED(memory);
    let_next_kernel_start();
    wait_for_previous_kernel();
    AttentionBlock block(p, D, blockIdx.y);
    int first = blockIdx.x * kQueries, lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16 * MF;
    if (first >= block.queries) return;
    load<kQueries>(memory, block.query, [&](int r) {
      return first + r < block.queries ? block.query + block.query_row(block.image, first + r) * p.query_stride : nullptr;
    });
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    uint32_t query[MF][kSteps][4];
#pragma unroll
    for (int m = 0; m < MF; ++m)
#pragma unroll
      for (int d = 0; d < kSteps; ++d)
        ldmatrix4(query[m][d], memory + (warp_row + m * 16 + lane % 16) * kPitch + (d * 2 + lane / 16) * 16);
    __syncthreads();

    float sums[MF][kSteps * 2][4] = {}, highest[MF][2], weight[MF][2] = {};
#pragma unroll
    for (int m = 0; m < MF; ++m) highest[m][0] = highest[m][1] = -INFINITY;
    if (block.begin < block.end) load_pair(block, block.begin, memory);
    cp_async_commit();
    for (int t = block.begin; t < block.end; ++t) {
      unsigned char* stage = memory + (t - block.begin) % kStages * 2 * kTile;
      if (t + 1 < block.end) load_pair(block, t + 1, memory + (t + 1 - block.begin) % kStages * 2 * kTile);
      cp_async_commit();
      cp_async_wait<1>();
      __syncthreads();
      score_and_add(stage, block.keys_left(t), lane, p.scale_log2, query, sums, highest, weight);
      __syncthreads();  // before the next turn overwrites this stage
    }
#pragma unroll
    for (int m = 0; m < MF; ++m) store_rows<D>(block, first + warp_row + m * 16, lane, sums[m], highest[m], weight[m]);
  }

  // One tile of keys: scores, running softmax, weighted values.
  __device__ static void score_and_add(const unsigned char* stage, int left, int lane, float scale_log2, const uint32_t (&query)[MF][kSteps][4],
                                       float (&sums)[MF][kSteps * 2][4], float (&highest)[MF][2], float (&weight)[MF][2]) {
    float scores[MF][kKeys / 8][4] = {};
#pragma unroll
    for (int d = 0; d < kSteps; ++d)
#pragma unroll
      for (int n = 0; n < kKeys / 8; n += 2) {
        uint32_t b[4];
        ldmatrix4(b, stage + (n * 8 + (lane & 7) + (lane >> 4) * 8) * kPitch + (d * 2 + ((lane >> 3) & 1)) * 16);
#pragma unroll
        for (int m = 0; m < MF; ++m) {
          mma16816(scores[m][n], query[m][d], b[0], b[1]);
          mma16816(scores[m][n + 1], query[m][d], b[2], b[3]);
        }
      }
#pragma unroll
    for (int m = 0; m < MF; ++m) {
      drop_tail(scores[m], left, lane);
      float fade[2];
      soften(scores[m], scale_log2, highest[m], weight[m], fade);
      fade_sums(sums[m], fade);
    }
#pragma unroll
    for (int n = 0; n < kKeys / 8; n += 2) {
      uint32_t a[MF][4];
#pragma unroll
      for (int m = 0; m < MF; ++m) weights_of(scores[m], n, a[m]);
#pragma unroll
      for (int d = 0; d < kSteps; ++d) {
        uint32_t b[4];
        ldmatrix4_transposed(b, stage + kTile + (n * 8 + lane % 16) * kPitch + (d * 2 + lane / 16) * 16);
#pragma unroll
        for (int m = 0; m < MF; ++m) {
          mma16816(sums[m][d * 2], a[m], b[0], b[1]);
          mma16816(sums[m][d * 2 + 1], a[m], b[2], b[3]);
        }
      }
    }
  }
};

#define KERNEL(NAME, D, MF)                                                                                          \
  extern "C" __global__ void __launch_bounds__(kThreads, 2) attention_##NAME(const __grid_constant__ AttentionParams p) { \
    Attention<D, MF>::run(p);                                                                                        \
  }
KERNEL(d8, 8, 1)
KERNEL(d16, 16, 1)
KERNEL(d24, 24, 1)
KERNEL(d32, 32, 1)
KERNEL(d40, 40, 1)
KERNEL(d48, 48, 1)
KERNEL(d64, 64, 1)
KERNEL(d64_wide, 64, 2)
KERNEL(d80, 80, 1)
KERNEL(d96, 96, 1)
KERNEL(d128, 128, 1)
KERNEL(d160, 160, 1)

// Joins the splits of the keys in their order. One warp per (row, head); 128 threads, grid-stride.
template <int D>
__device__ void combine(const AttentionParams& p) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  int queries = resolve(p.queries), items = p.images * queries * p.heads, lane = threadIdx.x % 32;
  __half* output = resolve<__half>(p.output, reinterpret_cast<const uint64_t*>(p.slots));
  size_t plane = size_t(items) * (D + 2);
  for (int item = blockIdx.x * 4 + threadIdx.x / 32; item < items; item += gridDim.x * 4) {
    const float* partial = reinterpret_cast<const float*>(p.partial) + size_t(item) * (D + 2);
    float top = -INFINITY;
    for (int s = 0; s < p.splits; ++s) top = fmaxf(top, partial[s * plane + D]);
    if (top == -INFINITY) top = 0.0f;
    float total = 0.0f, sums[(D + 31) / 32] = {};
    for (int s = 0; s < p.splits; ++s) {
      float fade = exp2_fast(partial[s * plane + D] - top);
      total += fade * partial[s * plane + D + 1];
#pragma unroll
      for (int j = 0; j < (D + 31) / 32; ++j)
        if (j * 32 + lane < D) sums[j] += fade * partial[s * plane + j * 32 + lane];
    }
    float norm = total > 0.0f ? 1.0f / total : 0.0f;
    int row = item / p.heads, head = item - row * p.heads;
#pragma unroll
    for (int j = 0; j < (D + 31) / 32; ++j)
      if (j * 32 + lane < D) output[size_t(row) * p.output_stride + head * D + j * 32 + lane] = __float2half_rn(sums[j] * norm);
  }
}

#define COMBINE(D)                                                                                                             \
  extern "C" __global__ void __launch_bounds__(128) attention_combine_d##D(const __grid_constant__ AttentionParams p) { \
    combine<D>(p);                                                                                                             \
  }
COMBINE(8)
COMBINE(16)
COMBINE(24)
COMBINE(32)
COMBINE(40)
COMBINE(48)
COMBINE(64)
COMBINE(80)
COMBINE(96)
COMBINE(128)
COMBINE(160)
COMBINE(256)
COMBINE(512)
