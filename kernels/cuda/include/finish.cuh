// The epilogue on a warpgroup product's sums where they lie: in registers. Four lanes hold two neighbouring columns each of a row; they exchange
// them so that each has eight columns of one row, which is what Finish takes.
#pragma once
#include "conv.cuh"

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
class PairFinish {
 public:
  FISEC_DEVICE PairFinish(const Finish& finish_, int live, int total, int row, int first_column_, int columns_)
      : finish(finish_), upper(min(row, total - 1), live), lower(min(row + 8, total - 1), live), has_upper(row < total), has_lower(row + 8 < total),
        first_column(first_column_), columns(columns_), lane(threadIdx.x % 4) {}

  FISEC_DEVICE void operator()(const float* sums) const {
    Finish::Addends next = fetch(0);
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn) {
      Finish::Addends addends = next;
      float pairs[4][2], v[8];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        int n = first_block(turn) + (both(turn) ? k / 2 : k), half = both(turn) ? k % 2 : turn % 2;
        pairs[k][0] = sums[n * 4 + half * 2], pairs[k][1] = sums[n * 4 + half * 2 + 1];
      }
      exchange(pairs, lane, v);
      if (turn + 1 < kTurns) next = fetch(turn + 1);  // this turn's sums are done with: there are registers
      if (real(turn)) finish.rest(place(turn).image, place(turn).row, column_of(turn), v, addends);
    }
  }

 private:
  // A turn takes four blocks of one row, so that stores are long; where two blocks are left, both of their rows.
  static constexpr int kTurns = COUNT / 2, kLong = COUNT / 4 * 2;
  static_assert(COUNT % 2 == 0, "two blocks are the least");
  FISEC_DEVICE static constexpr bool both(int turn) { return turn >= kLong; }
  FISEC_DEVICE static constexpr int first_block(int turn) { return both(turn) ? kLong * 2 : turn / 2 * 4; }
  FISEC_DEVICE bool is_lower(int turn) const { return both(turn) ? lane % 2 : turn % 2; }
  FISEC_DEVICE ImageRow place(int turn) const { return is_lower(turn) ? lower : upper; }
  FISEC_DEVICE int column_of(int turn) const { return first_column + 8 * (first_block(turn) + (both(turn) ? lane / 2 : lane)); }
  FISEC_DEVICE bool real(int turn) const { return (is_lower(turn) ? has_lower : has_upper) && column_of(turn) < columns; }
  FISEC_DEVICE Finish::Addends fetch(int turn) const {
    if (!real(turn)) return {};
    return finish.fetch_rest(place(turn).image, place(turn).row, column_of(turn));
  }

  const Finish& finish;
  ImageRow upper, lower;  // the lane's two rows
  bool has_upper, has_lower;
  int first_column, columns, lane;
};

// Where a lane's sums belong: the first of its two rows, the first of its pair of columns.
struct LanePlace {
  int row, pair;
  FISEC_DEVICE LanePlace(int first_row, int first_column)
      : row(first_row + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4), pair(first_column + threadIdx.x % 4 * 2) {}
};

// A complete tile: sums[n * 4 ..] are columns 8n of the lane's pair, of its two rows. Every multiplying thread calls it.
template <int BN>
FISEC_DEVICE void finish_sums(const ConvParams& p, const Finish& finish, int live, int first_row, int first_column, float (&sums)[BN / 2]) {
  LanePlace place(first_row, first_column);
  if (finish.gated()) {
    gate_sums<BN / 16>(finish, place.pair, p.cout, sums);
    PairFinish<BN / 16>(finish, live, live * p.images, place.row, first_column / 2, p.cout / 2)(sums);
  } else {
    add_bias<BN / 8>(finish, place.pair, p.cout, sums);
    PairFinish<BN / 8>(finish, live, live * p.images, place.row, first_column, p.cout)(sums);
  }
}

// This block's part of a tile, in its plane of the workspace.
template <int BN>
FISEC_DEVICE void store_sums(const ConvParams& p, int total, int first_row, int first_column, const float (&sums)[BN / 2]) {
  LanePlace place(first_row, first_column);
  float* at = reinterpret_cast<float*>(p.workspace) + (size_t(blockIdx.z) * total + place.row) * p.cout + place.pair;
#pragma unroll
  for (int n = 0; n < BN / 8; ++n) {
    if (place.pair + n * 8 >= p.cout) return;
    if (place.row < total) *reinterpret_cast<float2*>(at + n * 8) = make_float2(sums[n * 4], sums[n * 4 + 1]);
    if (place.row + 8 < total) *reinterpret_cast<float2*>(at + size_t(8) * p.cout + n * 8) = make_float2(sums[n * 4 + 2], sums[n * 4 + 3]);
  }
}
