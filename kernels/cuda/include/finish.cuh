// A warpgroup product's sums on their way out: through a small piece of shared memory, or straight into the workspace.
#pragma once
#include "conv.cuh"
#include "wgmma.cuh"

// Where a lane's sums belong: the first of its two rows, the first of its pair of columns.
struct LanePlace {
  int row, pair;
  FISEC_DEVICE LanePlace(int first_row, int first_column)
      : row(first_row + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4), pair(first_column + threadIdx.x % 4 * 2) {}
};

// A warpgroup's 64 rows go through shared memory 32 columns at a time, so that one short loop finishes them: an unrolled epilogue on registers
// is longer than the instruction cache, and few rows run every instruction once.
constexpr int kStagedColumns = 32, kStagedPitch = kStagedColumns + 8, kStagedBytes = 64 * kStagedPitch * 4;

template <int BN>
FISEC_DEVICE void stage_sums(const float (&sums)[BN / 2], int round, float* staged) {
  int lane = threadIdx.x % 32;
  staged += (threadIdx.x % 128 / 32 * 16 + lane / 4) * kStagedPitch + lane % 4 * 2;
#pragma unroll
  for (int n = 0; n < BN / 8; ++n) {
    if (n / (kStagedColumns / 8) != round) continue;
    float* at = staged + n % (kStagedColumns / 8) * 8;
    *reinterpret_cast<float2*>(at) = make_float2(sums[n * 4], sums[n * 4 + 1]);
    *reinterpret_cast<float2*>(at + 8 * kStagedPitch) = make_float2(sums[n * 4 + 2], sums[n * 4 + 3]);
  }
}

// What one thread of a warpgroup does to every 32 columns of a tile: eight columns of two rows, or sixteen of one where they are gated. Where its
// rows go is worked out once a tile, and residuals of the next columns are on their way while these are finished.
template <int BN, bool GATED>
class TileFinish {
 public:
  static constexpr int kRounds = BN / kStagedColumns;

  FISEC_DEVICE TileFinish(const ConvParams& p, const Finish& finish_, int live, int first_row, int first_column)
      : finish(finish_), column(first_column + threadIdx.x % kChunks * kWidth), cout(p.cout) {
#pragma unroll
    for (int h = 0; h < kRows; ++h) {
      int row = first_row + threadIdx.x % 128 / kChunks + h * kRowStep;
      ImageRow at(min(row, p.images * live - 1), live);
      real[h] = row < p.images * live;
      place[h] = finish.place(at.image, at.row);
    }
    fetch();
  }

  // The next 32 columns; `staged`: their sums, row 0 of the warpgroup.
  FISEC_DEVICE void operator()(const float* staged, int pitch) {
    if (column < cout) {
      int narrow = GATED ? column / 2 : column;
      Half8 bias = finish.bias_of(column), gate_bias = GATED ? finish.bias_of(column + 8) : Half8{};
      staged += threadIdx.x % 128 / kChunks * pitch + threadIdx.x % kChunks * kWidth;
      float v[kRows][8], gate[8];
#pragma unroll
      for (int h = 0; h < kRows; ++h) load8(staged + h * kRowStep * pitch, v[h]);
      if (GATED) load8(staged + 8, gate), Finish::add(gate, gate_bias);
      Half8 before[kRows];
#pragma unroll
      for (int h = 0; h < kRows; ++h) before[h] = residual[h];
      column += kStagedColumns;
      fetch();
#pragma unroll
      for (int h = 0; h < kRows; ++h) {
        Finish::add(v[h], bias);
        if (GATED) Finish::gate_values(v[h], gate);
        if (real[h]) finish.rest(place[h], narrow, v[h], finish.time_of(place[h], narrow), before[h]);
      }
    }
  }

 private:
  static constexpr int kWidth = GATED ? 16 : 8, kChunks = kStagedColumns / kWidth, kRowStep = 128 / kChunks, kRows = 64 / kRowStep;
  FISEC_DEVICE void fetch() {
#pragma unroll
    for (int h = 0; h < kRows; ++h)
      residual[h] = real[h] && column < cout ? finish.residual_of(place[h], GATED ? column / 2 : column) : Half8{};
  }

  const Finish& finish;
  Finish::Place place[kRows];
  Half8 residual[kRows];
  bool real[kRows];
  int column, cout;
};

// 32 columns after another through `staged`, a warpgroup's own.
template <int BN, bool GATED>
FISEC_DEVICE void finish_rounds(TileFinish<BN, GATED> tile, const float (&sums)[BN / 2], int group, float* staged) {
#pragma unroll 1
  for (int round = 0; round < tile.kRounds; ++round) {
    stage_sums<BN>(sums, round, staged);
    named_wait<128>(4 + group);
    tile(staged, kStagedPitch);
    named_wait<128>(4 + group);
  }
}
// A complete tile: sums[n * 4 ..] are columns 8n of the lane's pair, of its two rows. `staged`: kStagedBytes for each warpgroup.
template <int BN>
FISEC_DEVICE void finish_sums(const ConvParams& p, const Finish& finish, int live, int first_row, int first_column, const float (&sums)[BN / 2], float* staged) {
  int group = uniform(threadIdx.x / 128);
  staged += group * (kStagedBytes / 4);
  first_row += group * 64;
  if (finish.gated()) finish_rounds<BN, true>({p, finish, live, first_row, first_column}, sums, group, staged);
  else finish_rounds<BN, false>({p, finish, live, first_row, first_column}, sums, group, staged);
}

// The same where the whole tile has been staged, with rows `pitch` apart.
template <int BN, bool GATED>
FISEC_DEVICE void finish_staged_tile(TileFinish<BN, GATED> tile, const float* staged, int pitch) {
#pragma unroll 1
  for (int round = 0; round < tile.kRounds; ++round) tile(staged + round * kStagedColumns, pitch);
}
template <int BN>
FISEC_DEVICE void finish_staged_sums(const ConvParams& p, const Finish& finish, int live, int first_row, int first_column, const float* staged, int pitch) {
  int group = uniform(threadIdx.x / 128);
  staged += group * 64 * pitch;
  first_row += group * 64;
  if (finish.gated()) finish_staged_tile<BN, true>({p, finish, live, first_row, first_column}, staged, pitch);
  else finish_staged_tile<BN, false>({p, finish, live, first_row, first_column}, staged, pitch);
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
