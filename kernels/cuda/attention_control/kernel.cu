// Cross-attention whose probabilities count: written to a slot, or mixed with those that an earlier image wrote.
// README.md has the contract.
#include "attention.cuh"

struct ControlParams {
  Address query;   // f16 [images * queries, query_stride], head h at columns [h * dim, (h + 1) * dim)
  Address key;     // f16 [images * keys, key_stride]
  Address value;   // f16 [images * keys, value_stride]
  Address output;  // f16 [images * queries, output_stride]
  Address maps;    // f16 [conditioned * heads][queries][map_stride]: the second half of the images, head by head
  Address mapper;  // f16 [keys][map_stride]: row s, column t: share of recorded token s in token t
  Address blend;   // f16 [map_stride]: share of the recorded maps in each token
  Address weight;  // f16 [map_stride]
  uint64_t slots;
  int32_t query_stride, key_stride, value_stride, output_stride, map_stride;  // elements, multiples of 8
  int32_t images, heads, queries, keys, dim;  // queries, keys: of one image
  float scale_log2;                           // scale * log2(e)
  int32_t reserved;
};
static_assert(sizeof(ControlParams) == 184);

constexpr int kWarps = 4, kThreads = 32 * kWarps, kQueries = 16 * kWarps;
constexpr int kTokens = 80, kFragments = kTokens / 8, kSteps = kTokens / 16;
// An odd number of 16-byte chunks per row: eight rows of one chunk column then lie in eight different bank groups.
constexpr int kMapPitch = (kTokens / 8 | 1) * 16;

// `count` rows of `chunks` chunks in shared memory: those of `from` that exist, zeros below and right of them.
FISEC_DEVICE void load(unsigned char* tile, int pitch, int chunks, int count, const __half* from, int stride, int rows, int columns) {
  for (int j = threadIdx.x; j < count * chunks; j += kThreads) {
    int r = j / chunks, chunk = j - r * chunks;
    bool exists = r < rows && chunk * 8 < columns;
    cp_async16(tile + r * pitch + chunk * 16, exists ? from + size_t(r) * stride + chunk * 8 : from, exists ? 16 : 0);
  }
}

// A head of an image, some of its queries. A warp has 16 of them and all tokens, so each knows its own softmax.
struct ControlBlock {
  const ControlParams& p;
  const uint64_t* slots;
  int image, head, first, lane, warp_row;
  int chunks, pitch;  // of a row of a head, padded with zeros to whole matrix steps

  FISEC_DEVICE ControlBlock(const ControlParams& params, int first_image)
      : p(params), slots(reinterpret_cast<const uint64_t*>(params.slots)) {
    image = first_image + blockIdx.y / p.heads, head = blockIdx.y % p.heads;
    first = blockIdx.x * kQueries;
    lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16;
    chunks = (p.dim + 15) / 16 * 2, pitch = (chunks | 1) * 16;
  }

  template <typename T>
  FISEC_DEVICE T* rows(const Address& a, int rows_of_image, int stride) const {
    return resolve<T>(a, slots) + size_t(image) * rows_of_image * stride + head * p.dim;
  }
  FISEC_DEVICE void load_queries(unsigned char* tile) const {
    const __half* from = rows<const __half>(p.query, p.queries, p.query_stride) + size_t(first) * p.query_stride;
    load(tile, pitch, chunks, kQueries, from, p.query_stride, p.queries - first, p.dim);
  }
  FISEC_DEVICE void load_tokens(unsigned char* tile, const Address& a, int stride) const {
    load(tile, pitch, chunks, kTokens, rows<const __half>(a, p.keys, stride), stride, p.keys, p.dim);
  }
  // The maps of this head from this block's first query on; the image is one of the second half.
  FISEC_DEVICE __half* map() const {
    size_t index = size_t(image - p.images / 2) * p.heads + head;
    return resolve<__half>(p.maps, slots) + (index * p.queries + first) * p.map_stride;
  }

  // softmax(scale * q k^T) of this warp's queries, as fragments; tokens past the last one have 0.
  FISEC_DEVICE void attend(const unsigned char* query, const unsigned char* key, float (&share)[kFragments][4]) const {
    for (int d = 0; d < chunks / 2; ++d) {
      uint32_t a[4], b[4];
      ldmatrix4(a, query + (warp_row + lane % 16) * pitch + (d * 2 + lane / 16) * 16);
#pragma unroll
      for (int n = 0; n < kFragments; n += 2) {
        ldmatrix4(b, key + (n * 8 + (lane & 7) + (lane >> 4) * 8) * pitch + (d * 2 + ((lane >> 3) & 1)) * 16);
        mma16816(share[n], a, b[0], b[1]);
        mma16816(share[n + 1], a, b[2], b[3]);
      }
    }
    float highest[2] = {-INFINITY, -INFINITY}, total[2] = {}, fade[2];
    drop_tail(share, p.keys, lane);
    soften(share, p.scale_log2, highest, total, fade);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      total[half] += shuffle_xor(total[half], 1);
      total[half] += shuffle_xor(total[half], 2);
      total[half] = total[half] > 0.0f ? 1.0f / total[half] : 0.0f;
    }
#pragma unroll
    for (int n = 0; n < kFragments; ++n)
#pragma unroll
      for (int j = 0; j < 4; ++j) share[n][j] *= total[j / 2];
  }

  // (blend * recorded mapper + (1 - blend) * own) * weight, token by token.
  FISEC_DEVICE void steer(const unsigned char* recorded, const unsigned char* mapper, float (&share)[kFragments][4]) const {
    float mapped[kFragments][4] = {};
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      uint32_t a[4], b[4];
      ldmatrix4(a, recorded + (warp_row + lane % 16) * kMapPitch + (s * 2 + lane / 16) * 16);
#pragma unroll
      for (int n = 0; n < kFragments; n += 2) {
        ldmatrix4_transposed(b, mapper + (s * 16 + lane % 16) * kMapPitch + (n + lane / 16) * 16);
        mma16816(mapped[n], a, b[0], b[1]);
        mma16816(mapped[n + 1], a, b[2], b[3]);
      }
    }
    const __half2* blends = resolve<const __half2>(p.blend, slots);
    const __half2* weights = resolve<const __half2>(p.weight, slots);
#pragma unroll
    for (int n = 0; n < kFragments; ++n) {
      if (n * 8 >= p.map_stride) continue;
      float2 blend = __half22float2(blends[n * 4 + lane % 4]), weight = __half22float2(weights[n * 4 + lane % 4]);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float part = j % 2 ? blend.y : blend.x;
        share[n][j] = fmaf(part, mapped[n][j] - share[n][j], share[n][j]) * (j % 2 ? weight.y : weight.x);
      }
    }
  }

  // Columns [column, column + 16) of share v.
  FISEC_DEVICE void store(const unsigned char* value, int column, const uint32_t (&share)[kSteps][4]) const {
    float sums[2][4] = {};
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      uint32_t b[4];
      ldmatrix4_transposed(b, value + (s * 16 + lane % 16) * pitch + (column / 8 + lane / 16) * 16);
      mma16816(sums[0], share[s], b[0], b[1]);
      mma16816(sums[1], share[s], b[2], b[3]);
    }
    __half* output = rows<__half>(p.output, p.queries, p.output_stride);
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      int n = part / 2, half = part % 2, row = first + warp_row + lane / 4 + half * 8, at = column + n * 8 + lane % 4 * 2;
      if (row < p.queries && at < p.dim)
        *reinterpret_cast<__half2*>(output + size_t(row) * p.output_stride + at) =
            __floats2half2_rn(sums[n][half * 2], sums[n][half * 2 + 1]);
    }
  }
};

// Writes the probabilities of the second half of the images.
extern "C" __global__ void __launch_bounds__(kThreads) attention_maps(const __grid_constant__ ControlParams p) {
  DYNAMIC_SHARED(memory);
  let_next_kernel_start();
  wait_for_previous_kernel();
  ControlBlock block(p, p.images / 2);
  unsigned char *query = memory, *key = query + kQueries * block.pitch;
  block.load_queries(query);
  block.load_tokens(key, p.key, p.key_stride);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  float share[kFragments][4] = {};
  block.attend(query, key, share);
  __half* map = block.map();
#pragma unroll
  for (int part = 0; part < kFragments * 2; ++part) {
    int n = part / 2, half = part % 2, row = block.warp_row + block.lane / 4 + half * 8;
    if (block.first + row < p.queries && n * 8 < p.map_stride)
      *reinterpret_cast<__half2*>(map + size_t(row) * p.map_stride + n * 8 + block.lane % 4 * 2) =
          __floats2half2_rn(share[n][half * 2], share[n][half * 2 + 1]);
  }
}

// Attention whose probabilities, in the second half of the images, follow recorded ones.
extern "C" __global__ void __launch_bounds__(kThreads) attention_control(const __grid_constant__ ControlParams p) {
  DYNAMIC_SHARED(memory);
  let_next_kernel_start();
  wait_for_previous_kernel();
  ControlBlock block(p, 0);
  bool steered = block.image >= p.images / 2;
  unsigned char *query = memory, *key = query + kQueries * block.pitch, *value = key + kTokens * block.pitch;
  unsigned char *recorded = value + kTokens * block.pitch, *mapper = recorded + kQueries * kMapPitch;
  block.load_queries(query);
  block.load_tokens(key, p.key, p.key_stride);
  block.load_tokens(value, p.value, p.value_stride);
  if (steered) {
    load(recorded, kMapPitch, kTokens / 8, kQueries, block.map(), p.map_stride, p.queries - block.first, p.map_stride);
    load(mapper, kMapPitch, kTokens / 8, kTokens, resolve<const __half>(p.mapper, block.slots), p.map_stride, p.keys, p.map_stride);
  }
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  float share[kFragments][4] = {};
  block.attend(query, key, share);
  if (steered) block.steer(recorded, mapper, share);
  uint32_t rounded[kSteps][4];
#pragma unroll
  for (int s = 0; s < kSteps; ++s) weights_of(share, s * 2, rounded[s]);
  for (int column = 0; column < p.dim; column += 16) block.store(value, column, rounded);
}
