// What both attention kernels (mma.sync and wgmma) share. Scores and sums lie in registers as rows of 16x8 fragments:
// f[j][0..3] of lane l are columns 8j + l%4*2 (+1) of rows l/4 (first two) and l/4 + 8 (last two).
#pragma once
#include "math.cuh"
#include "ptx.cuh"

// The keys are rows of a map, picked by a list, and then packed fresh ones: softmax does not mind their order, so what has
// not changed is read out of the recorded map where it lies.
struct AttentionParams {
  Address query;        // f16 [.., query_stride], head h at columns [h*D, (h+1)*D)
  Address key;          // f16 [.., key_stride]; the values lie value_offset elements behind their keys
  Address fresh_key;    // f16 [images * fresh, fresh_stride]; likewise fresh_value_offset
  Address output;       // f16 [images * queries, output_stride]
  Rows query_rows;      // where the queries are
  Count queries;        // of one image
  Rows key_rows;        // where the keys are
  Count keys;           // of one image, fresh ones aside; may be 0
  Count fresh;          // fresh keys of one image; may be 0
  uint64_t partial;     // f32 [splits][images * queries][heads][D + 2]: sums, then row maximum (log2 units) and row sum
  uint64_t slots;
  int32_t query_stride, key_stride, fresh_stride, output_stride;  // elements, multiples of 8
  int32_t value_offset, fresh_value_offset;
  int32_t images, heads, splits;
  float scale_log2;     // scale * log2(e): powers of two are what the hardware computes
};
static_assert(sizeof(AttentionParams) == 216);

constexpr int kKeys = 64;  // keys per tile, where a kernel does not say otherwise

// A tile of one head's keys: `left` rows, if not more than a tile holds; row r is map[r], or r.
struct KeyTile {
  const __half* base;
  const int32_t* map;
  int stride, value_offset, left;
  FISEC_DEVICE const __half* operator()(int r) const {
    return r < left ? base + size_t(map ? map[r] : r) * stride : nullptr;
  }
};

// The keys of a tile as rows of the map or of the fresh ones: key r < left is row map[r], or first + r where there is no map.
struct KeyList {
  const int32_t* map;
  int first, left;
};

// One block's share: a head of an image, some queries, some tiles of keys.
struct AttentionBlock {
  const AttentionParams& p;
  const __half* query;
  RowIndex query_row;
  const __half *key, *fresh_key;
  const int32_t* key_map;
  int queries, keys, fresh, image, head, map_tiles, tiles, begin, end;  // tiles: of the map, all; [begin, end) is this block's share

  // `index`: of a head of an image, image by image.
  FISEC_DEVICE AttentionBlock(const AttentionParams& params, int dim, int index, int keys_per_tile = kKeys) : p(params), tile_keys(keys_per_tile) {
    const uint64_t* slots = reinterpret_cast<const uint64_t*>(p.slots);
    queries = resolve(p.queries);
    keys = resolve(p.keys), fresh = resolve(p.fresh);
    RowIndex key_row = resolve(p.key_rows, keys);
    key_map = key_row.map;
    image = index / p.heads, head = index - image * p.heads;
    int column = head * dim;
    query = resolve<const __half>(p.query, slots) + column;
    query_row = resolve(p.query_rows, queries);
    key = resolve<const __half>(p.key, slots) + size_t(image) * key_row.image_rows * p.key_stride + column;
    fresh_key = resolve<const __half>(p.fresh_key, slots) + size_t(image) * fresh * p.fresh_stride + column;
    map_tiles = (keys + tile_keys - 1) / tile_keys;
    tiles = map_tiles + (fresh + tile_keys - 1) / tile_keys;
    begin = tiles * blockIdx.z / p.splits, end = tiles * (blockIdx.z + 1) / p.splits;
  }

  FISEC_DEVICE KeyTile tile(int t) const {
    if (t >= map_tiles) {
      int first = (t - map_tiles) * tile_keys;
      return {fresh_key + size_t(first) * p.fresh_stride, nullptr, p.fresh_stride, p.fresh_value_offset, fresh - first};
    }
    int first = t * tile_keys;
    if (key_map) return {key, key_map + first, p.key_stride, p.value_offset, keys - first};
    return {key + size_t(first) * p.key_stride, nullptr, p.key_stride, p.value_offset, keys - first};
  }
  FISEC_DEVICE KeyList list(int t) const {
    if (t >= map_tiles) return {nullptr, (t - map_tiles) * tile_keys, keys_left(t)};
    return {key_map ? key_map + t * tile_keys : nullptr, t * tile_keys, keys_left(t)};
  }
  FISEC_DEVICE int keys_left(int t) const { return t < map_tiles ? keys - t * tile_keys : fresh - (t - map_tiles) * tile_keys; }

 private:
  int tile_keys;
};

// Scores of keys past the last one become -inf. `left`: keys from the tile's first on.
template <int NF>
FISEC_DEVICE void drop_tail(float (&scores)[NF][4], int left, int lane) {
  if (left >= NF * 8) return;
#pragma unroll
  for (int n = 0; n < NF; ++n)
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (n * 8 + lane % 4 * 2 + (j & 1) >= left) scores[n][j] = -INFINITY;
}

// Running softmax: scores become weights relative to the highest score so far; older sums must fade by `fade`.
template <int NF>
FISEC_DEVICE void soften(float (&scores)[NF][4], float scale_log2, float (&highest)[2], float (&weight)[2], float (&fade)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float top = highest[half];
#pragma unroll
    for (int n = 0; n < NF; ++n) top = fmaxf(top, fmaxf(scores[n][half * 2], scores[n][half * 2 + 1]));
    top = fmaxf(top, shuffle_xor(top, 1));
    top = fmaxf(top, shuffle_xor(top, 2));
    // a row with no finite score keeps -inf: shift by 0 then, so that -inf - -inf never makes a NaN
    float shift = top == -INFINITY ? 0.0f : top * scale_log2;
    fade[half] = exp2_fast(fmaf(highest[half], scale_log2, -shift));
    highest[half] = top;
    float total = 0.0f;
#pragma unroll
    for (int n = 0; n < NF; ++n)
#pragma unroll
      for (int j = half * 2; j < half * 2 + 2; ++j) {
        scores[n][j] = exp2_fast(fmaf(scores[n][j], scale_log2, -shift));
        total += scores[n][j];
      }
    weight[half] = weight[half] * fade[half] + total;
  }
}

template <int DF>
FISEC_DEVICE void fade_sums(float (&sums)[DF][4], const float (&fade)[2]) {
#pragma unroll
  for (int d = 0; d < DF; ++d)
#pragma unroll
    for (int j = 0; j < 4; ++j) sums[d][j] *= fade[j / 2];
}

// Weights of 16 keys from 8 * n on, as the left operand of a 16-deep product.
template <int NF>
FISEC_DEVICE void weights_of(const float (&scores)[NF][4], int n, uint32_t (&a)[4]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    __half2 pair = __floats2half2_rn(scores[n + j / 2][j % 2 * 2], scores[n + j / 2][j % 2 * 2 + 1]);
    a[j] = *reinterpret_cast<uint32_t*>(&pair);
  }
}

// Rows `first` + lane/4 (+8): finished, or one split's part of them.
template <int D, int DF>
FISEC_DEVICE void store_rows(const AttentionBlock& block, int first, int lane, const float (&sums)[DF][4],
                             const float (&highest)[2], const float (&weight)[2]) {
  const AttentionParams& p = block.p;
  __half* output = resolve<__half>(p.output, reinterpret_cast<const uint64_t*>(p.slots)) + block.head * D;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float total = weight[half] + shuffle_xor(weight[half], 1);
    total += shuffle_xor(total, 2);
    int row = first + half * 8 + lane / 4;
    if (row >= block.queries) continue;
    if (p.splits > 1) {
      size_t item = (size_t(blockIdx.z) * p.images + block.image) * block.queries + row;
      float* partial = reinterpret_cast<float*>(p.partial) + (item * p.heads + block.head) * (D + 2);
#pragma unroll
      for (int d = 0; d < D / 8; ++d)
        *reinterpret_cast<float2*>(partial + d * 8 + lane % 4 * 2) = make_float2(sums[d][half * 2], sums[d][half * 2 + 1]);
      if (lane % 4 == 0) *reinterpret_cast<float2*>(partial + D) = make_float2(highest[half] * p.scale_log2, total);
      continue;
    }
    float norm = total > 0.0f ? 1.0f / total : 0.0f;
#pragma unroll
    for (int d = 0; d < D / 8; ++d)
      *reinterpret_cast<__half2*>(output + (size_t(block.image) * block.queries + row) * p.output_stride + d * 8 + lane % 4 * 2) =
          __floats2half2_rn(sums[d][half * 2] * norm, sums[d][half * 2 + 1] * norm);
  }
}
