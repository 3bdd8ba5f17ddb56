// Flash attention of packed queries over full (or packed) keys and values:
//   out[i] = softmax(scale * q[i] . k^T) v      f16 in and out, f32 scores, softmax and sums
// README.md has the contract.
#include "math.cuh"
#include "ptx.cuh"

struct AttentionParams {
  Address query;    // f16 [images * queries, query_stride], head h at columns [h*D, (h+1)*D)
  Address key;      // f16 [images * key_image_rows, key_stride]
  Address value;    // f16 [images * key_image_rows, value_stride]
  Address output;   // f16 [images * queries, output_stride]
  Count queries;    // of one image
  Count keys;       // of one image
  Count key_image_rows;  // rows between two images' keys; 0: as many as keys
  uint64_t partial;      // f32 [splits][images * queries][heads][D + 2]: sums, then row maximum (log2 units) and row sum
  uint64_t slots;
  int32_t query_stride, key_stride, value_stride, output_stride;  // in elements, multiples of 8
  int32_t images, heads, splits;
  float scale_log2;  // scale * log2(e): powers of two are what the hardware computes
};

constexpr int kWarps = 4, kThreads = 32 * kWarps, kKeys = 64;  // keys per tile

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

  // rows [first, first + ROWS) of a head, zeros past `rows` and past D.
  template <int ROWS>
  __device__ static void load(const __half* head, int stride, int first, int rows, unsigned char* tile) {
    for (int j = threadIdx.x; j < ROWS * kChunks; j += kThreads) {
      int r = j / kChunks, chunk = j - r * kChunks;
      bool real = first + r < rows && chunk * 8 < D;
      cp_async16(tile + r * kPitch + chunk * 16, head + (real ? size_t(first + r) * stride + chunk * 8 : 0), real ? 16 : 0);
    }
  }

  __device__ static void run(const AttentionParams& p) {
    DYNAMIC_SHARED(memory);
    let_next_kernel_start();
    wait_for_previous_kernel();
    const uint64_t* slots = reinterpret_cast<const uint64_t*>(p.slots);
    int queries = resolve(p.queries), keys = resolve(p.keys), key_rows = resolve(p.key_image_rows);
    int image = blockIdx.y / p.heads, head = blockIdx.y - image * p.heads, first = blockIdx.x * kQueries;
    if (first >= queries) return;
    if (!key_rows) key_rows = keys;
    const __half* q = resolve<const __half>(p.query, slots) + size_t(image) * queries * p.query_stride + head * D;
    const __half* k = resolve<const __half>(p.key, slots) + size_t(image) * key_rows * p.key_stride + head * D;
    const __half* v = resolve<const __half>(p.value, slots) + size_t(image) * key_rows * p.value_stride + head * D;
    int tiles = (keys + kKeys - 1) / kKeys;
    int begin = tiles * blockIdx.z / p.splits, end = tiles * (blockIdx.z + 1) / p.splits;

    int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16 * MF;
    load<kQueries>(q, p.query_stride, first, queries, memory);
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

    if (begin < end) load_pair(p, k, v, begin, keys, memory);
    cp_async_commit();
    for (int t = begin; t < end; ++t) {
      unsigned char* stage = memory + (t - begin) % kStages * 2 * kTile;
      if (t + 1 < end) load_pair(p, k, v, t + 1, keys, memory + (t + 1 - begin) % kStages * 2 * kTile);
      cp_async_commit();
      cp_async_wait<1>();
      __syncthreads();
      score_and_add(stage, keys - t * kKeys, lane, p.scale_log2, query, sums, highest, weight);
      __syncthreads();  // before the next turn overwrites this stage
    }
    store(p, slots, image, head, first + warp_row, queries, lane, sums, highest, weight);
  }

  __device__ static void load_pair(const AttentionParams& p, const __half* k, const __half* v, int tile, int keys, unsigned char* stage) {
    load<kKeys>(k, p.key_stride, tile * kKeys, keys, stage);
    load<kKeys>(v, p.value_stride, tile * kKeys, keys, stage + kTile);
  }

  // One tile of keys: scores, running softmax, weighted values. `left`: keys from this tile's first to the last one.
  __device__ static void score_and_add(const unsigned char* stage, int left, int lane, float scale_log2, const uint32_t (&query)[MF][kSteps][4],
                                       float (&sums)[MF][kSteps * 2][4], float (&highest)[MF][2], float (&weight)[MF][2]) {
    constexpr int NF = kKeys / 8;
    float s[MF][NF][4] = {};
#pragma unroll
    for (int d = 0; d < kSteps; ++d)
#pragma unroll
      for (int n = 0; n < NF; n += 2) {
        uint32_t b[4];
        ldmatrix4(b, stage + (n * 8 + (lane & 7) + (lane >> 4) * 8) * kPitch + (d * 2 + ((lane >> 3) & 1)) * 16);
#pragma unroll
        for (int m = 0; m < MF; ++m) {
          mma16816(s[m][n], query[m][d], b[0], b[1]);
          mma16816(s[m][n + 1], query[m][d], b[2], b[3]);
        }
      }
    if (left < kKeys) {
#pragma unroll
      for (int m = 0; m < MF; ++m)
#pragma unroll
        for (int n = 0; n < NF; ++n)
#pragma unroll
          for (int j = 0; j < 4; ++j)
            if (n * 8 + lane % 4 * 2 + (j & 1) >= left) s[m][n][j] = -INFINITY;
    }
#pragma unroll
    for (int m = 0; m < MF; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {  // rows lane/4 and lane/4 + 8 of the fragment
        float top = highest[m][half];
#pragma unroll
        for (int n = 0; n < NF; ++n) top = fmaxf(top, fmaxf(s[m][n][half * 2], s[m][n][half * 2 + 1]));
        top = fmaxf(top, shuffle_xor(top, 1));
        top = fmaxf(top, shuffle_xor(top, 2));
        // a row with no finite score keeps -inf: shift by 0 then, so that -inf - -inf never makes a NaN
        float shift = top == -INFINITY ? 0.0f : top * scale_log2;
        float fade = exp2_fast(highest[m][half] * scale_log2 - shift);
        highest[m][half] = top;
        float total = 0.0f;
#pragma unroll
        for (int n = 0; n < NF; ++n)
#pragma unroll
          for (int j = half * 2; j < half * 2 + 2; ++j) {
            s[m][n][j] = exp2_fast(fmaf(s[m][n][j], scale_log2, -shift));
            total += s[m][n][j];
          }
        weight[m][half] = weight[m][half] * fade + total;
#pragma unroll
        for (int d = 0; d < kSteps * 2; ++d) sums[m][d][half * 2] *= fade, sums[m][d][half * 2 + 1] *= fade;
      }
#pragma unroll
    for (int n = 0; n < NF; n += 2) {  // 16 keys: two score fragments are one A fragment
      uint32_t a[MF][4];
#pragma unroll
      for (int m = 0; m < MF; ++m)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          __half2 pair = __floats2half2_rn(s[m][n + j / 2][j % 2 * 2], s[m][n + j / 2][j % 2 * 2 + 1]);
          a[m][j] = *reinterpret_cast<uint32_t*>(&pair);
        }
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

  __device__ static void store(const AttentionParams& p, const uint64_t* slots, int image, int head, int first, int queries, int lane,
                               float (&sums)[MF][kSteps * 2][4], float (&highest)[MF][2], float (&weight)[MF][2]) {
    __half* output = resolve<__half>(p.output, slots);
#pragma unroll
    for (int m = 0; m < MF; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float total = weight[m][half] + shuffle_xor(weight[m][half], 1);
        total += shuffle_xor(total, 2);
        int row = first + m * 16 + half * 8 + lane / 4;
        if (row >= queries) continue;
        size_t r = size_t(image) * queries + row;
        if (p.splits > 1) {
          float* partial = reinterpret_cast<float*>(p.partial) + ((size_t(blockIdx.z) * p.images * queries + r) * p.heads + head) * (D + 2);
#pragma unroll
          for (int d = 0; d < D / 8; ++d)
            *reinterpret_cast<float2*>(partial + d * 8 + lane % 4 * 2) = make_float2(sums[m][d][half * 2], sums[m][d][half * 2 + 1]);
          if (lane % 4 == 0) *reinterpret_cast<float2*>(partial + D) = make_float2(highest[m][half] * p.scale_log2, total);
          continue;
        }
        float norm = total > 0.0f ? 1.0f / total : 0.0f;
#pragma unroll
        for (int d = 0; d < D / 8; ++d)
          *reinterpret_cast<__half2*>(output + r * p.output_stride + head * D + d * 8 + lane % 4 * 2) =
              __floats2half2_rn(sums[m][d][half * 2] * norm, sums[m][d][half * 2 + 1] * norm);
      }
  }
};

#define KERNEL(NAME, D, MF)                                                                                          \
  extern "C" __global__ void __launch_bounds__(kThreads) attention_##NAME(const __grid_constant__ AttentionParams p) { \
    Attention<D, MF>::run(p);                                                                                        \
  }
KERNEL(d32, 32, 1)
KERNEL(d40, 40, 1)
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
COMBINE(32)
COMBINE(40)
COMBINE(64)
COMBINE(80)
COMBINE(96)
COMBINE(128)
COMBINE(160)
