// The epilogue on a warpgroup product's sums where they lie: in registers. Four lanes hold two neighbouring columns each of a row; they exchange
// them so that each has eight columns of one row, which is what Finish takes.
#pragma once
#include "epilogue.cuh"

// Lane l of four gives pair k of `pairs` to lane k, and gets lane i's pair l as eight[2i], eight[2i + 1].
FISEC_DEVICE void exchange(float (&pairs)[4][2], int lane, float (&eight)[8]) {
#pragma unroll
  for (int bit = 1; bit <= 2; bit *= 2) {
    bool upper = lane & bit;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (k & bit) continue;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float kept = upper ? pairs[k | bit][j] : pairs[k][j], got = shuffle_xor(upper ? pairs[k][j] : pairs[k | bit][j], bit);
        pairs[k][j] = upper ? got : kept;
        pairs[k | bit][j] = upper ? kept : got;
      }
    }
  }
#pragma unroll
  for (int k = 0; k < 4; ++k) eight[2 * k] = pairs[k][0], eight[2 * k + 1] = pairs[k][1];
}

// Values times gates in place: 2 * COUNT blocks of eight columns become COUNT. `column`: of this lane's first pair of the product.
template <int COUNT>
FISEC_DEVICE void gate_sums(const Finish& finish, int column, int cout, float* sums) {
#pragma unroll
  for (int n = 0; n < COUNT; ++n) {
    bool inside = column + n * 16 + 8 < cout;
    float2 value = inside ? finish.bias_pair(column + n * 16) : float2(), gate = inside ? finish.bias_pair(column + n * 16 + 8) : float2();
    const float* v = sums + n * 8;
    const float *g = v + 4;
    float done[4] = {(v[0] + value.x) * gelu(g[0] + gate.x), (v[1] + value.y) * gelu(g[1] + gate.y),
                     (v[2] + value.x) * gelu(g[2] + gate.x), (v[3] + value.y) * gelu(g[3] + gate.y)};
#pragma unroll
    for (int j = 0; j < 4; ++j) sums[n * 4 + j] = done[j];
  }
}
template <int COUNT>
FISEC_DEVICE void add_bias(const Finish& finish, int column, int cout, float* sums) {
#pragma unroll
  for (int n = 0; n < COUNT; ++n) {
    float2 bias = column + n * 8 < cout ? finish.bias_pair(column + n * 8) : float2();
    sums[n * 4] += bias.x, sums[n * 4 + 1] += bias.y, sums[n * 4 + 2] += bias.x, sums[n * 4 + 3] += bias.y;
  }
}

// COUNT blocks of eight columns from `first_column` of the output on, of rows `row` and `row` + 8: sums[n * 4 ..] are the lane's pairs of the two.
// Every lane of the warp calls it.
template <int COUNT>
FISEC_DEVICE void finish_pairs(const Finish& finish, int live, int total, int row, int first_column, int columns, float* sums) {
  int lane = threadIdx.x % 4;
#pragma unroll
  for (int unit = 0; unit < COUNT * 2; unit += 4) {  // a unit: a block's row, or that row + 8; blocks first, so that stores are long
    float pairs[4][2], v[8];
    // the last blocks may be two instead of four: then both of their rows
    constexpr int kLong = COUNT / 4 * 8;
    bool both = unit >= kLong;
    int block = both ? kLong / 2 : unit / 8 * 4, half = both ? 0 : unit / 4 % 2;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      int n = both ? block + k / 2 : block + k, h = both ? k % 2 : half;
      pairs[k][0] = sums[n * 4 + h * 2], pairs[k][1] = sums[n * 4 + h * 2 + 1];
    }
    exchange(pairs, lane, v);
    int r = row + 8 * (both ? lane % 2 : half), column = first_column + 8 * (block + (both ? lane / 2 : lane));
    if (r >= total || column >= columns) continue;
    ImageRow at(r, live);
    finish.rest(at.image, at.row, column, v, finish.fetch(at.image, at.row, column));
  }
}
