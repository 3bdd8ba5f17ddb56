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

// The layer norms of a thread's rows, known before the products.
struct RowNorms {
  Finish::RowNorm row[2];
};
template <bool GATED>
FISEC_DEVICE void row_norms(const ConvParams& p, int live, int first_row, RowNorms& norms) {
  first_row += threadIdx.x / 128 * 64;
  constexpr int kChunks = GATED ? 2 : 4, kRowStep = 128 / kChunks;
#pragma unroll
  for (int h = 0; h < 64 / kRowStep; ++h)
    norms.row[h] = Finish::norm_of<kChunks>(p.epilogue, min(first_row + int(threadIdx.x) % 128 / kChunks + h * kRowStep, p.images * live - 1));
}

// What one thread of a warpgroup does to every 32 columns of a tile: eight columns of two rows, or sixteen of one where they are gated. Where its
// rows go is worked out once a tile, and residuals of the next columns are on their way while these are finished. Registers allow for layer norms
// where columns are gated alone.
template <int BN, bool GATED>
class TileFinish {
 public:
  static constexpr int kRounds = BN / kStagedColumns;

  FISEC_DEVICE TileFinish(const ConvParams& p, const Finish& finish_, int live, int first_row, int first_column, const RowNorms& norms_)
      : finish(finish_), norms(norms_), column(first_column + threadIdx.x % kChunks * kWidth), cout(p.cout) {
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
      if (GATED) load8(staged + 8, gate), norm(0, column + 8, gate), Finish::add(gate, gate_bias);
      Half8 before[kRows];
#pragma unroll
      for (int h = 0; h < kRows; ++h) norm(h, column, v[h]), before[h] = residual[h];
      column += kStagedColumns;
      fetch();
#pragma unroll
      for (int h = 0; h < kRows; ++h) {
        Finish::add(v[h], bias);
        if (GATED) Finish::gate_values(v[h], gate);
        if (real[h]) finish.rest<false>(place[h], narrow, v[h], finish.time_of(place[h], narrow), before[h]);
      }
    }
  }

 private:
  static constexpr int kWidth = GATED ? 16 : 8, kChunks = kStagedColumns / kWidth, kRowStep = 128 / kChunks, kRows = 64 / kRowStep;
  FISEC_DEVICE void norm(int h, int from, float (&v)[8]) const {
    if (GATED && finish.has_norm()) Finish::norm(norms.row[h], finish.column_sums_at(from), v);
  }
  FISEC_DEVICE void fetch() {
#pragma unroll
    for (int h = 0; h < kRows; ++h)
      residual[h] = real[h] && column < cout ? finish.residual_of(place[h], GATED ? column / 2 : column) : Half8{};
  }

  const Finish& finish;
  RowNorms norms;
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
FISEC_DEVICE void finish_sums(const ConvParams& p, const Finish& finish, int live, int first_row, int first_column, const RowNorms& norms, const float (&sums)[BN / 2],
                              float* staged) {
  int group = uniform(threadIdx.x / 128);
  staged += group * (kStagedBytes / 4);
  first_row += group * 64;
  if (finish.gated()) finish_rounds<BN, true>({p, finish, live, first_row, first_column, norms}, sums, group, staged);
  else finish_rounds<BN, false>({p, finish, live, first_row, first_column, norms}, sums, group, staged);
}

// What a warpgroup does to a tile that has been staged whole: as TileFinish, but all that is added to the sums is on its way to shared memory
// before the first of them is finished, so that it is waited for once. Columns past cout are read and not used.
template <int BM, int BN, bool GATED>
class StagedFinish {
 public:
  static constexpr int kNearPitch = BN + 8;  // of f16
  static constexpr int kNearBytes = BM * kNearPitch * 2 + BN * 2 + BN * 4;

  // `near`: kNearBytes of the block's, free.
  FISEC_DEVICE StagedFinish(const ConvParams& p, const Finish& finish_, int live, int first_row, int first_column, const RowNorms& norms_, unsigned char* near)
      : finish(finish_), norms(norms_), residuals(reinterpret_cast<__half*>(near)), biases(residuals + BM * kNearPitch),
        sums(reinterpret_cast<float*>(biases + BN)), first(first_column), columns(min(BN, p.cout - first_column)) {
#pragma unroll
    for (int h = 0; h < kRows; ++h) {
      int row = first_row + row_of(h);
      ImageRow at(min(row, p.images * live - 1), live);
      real[h] = row < p.images * live;
      place[h] = finish.place(at.image, at.row);
    }
    if (finish.has_residual()) bring_residuals();
    int chunk = threadIdx.x;
    if (chunk * 8 < columns && finish.has_bias()) cp_async16(biases + chunk * 8, finish.bias_at(first + chunk * 8));
    if (chunk * 4 < columns && finish.has_norm()) cp_async16(sums + chunk * 4, finish.column_sums_at(first + chunk * 4));
    cp_async_commit();
  }

  // All rounds; `staged`: the block's sums. Between the constructor and this all threads of the block call cp_async_wait<0> and meet.
  FISEC_DEVICE void operator()(const float* staged, int pitch) const {
    int column = threadIdx.x % kChunks * kWidth;
    staged += row_of(0) * pitch + column;
#pragma unroll 1
    for (; column < columns; column += kStagedColumns, staged += kStagedColumns) finish_columns(column, staged, pitch);
  }

 private:
  static constexpr int kWidth = GATED ? 16 : 8, kChunks = kStagedColumns / kWidth, kRowStep = 128 / kChunks, kRows = 64 / kRowStep;
  FISEC_DEVICE static int row_of(int h) { return threadIdx.x / 128 * 64 + threadIdx.x % 128 / kChunks + h * kRowStep; }
  FISEC_DEVICE static int narrow(int column) { return GATED ? column / 2 : column; }

  FISEC_DEVICE void bring_residuals() {
#pragma unroll
    for (int h = 0; h < kRows; ++h)
#pragma unroll
      for (int column = threadIdx.x % kChunks * kWidth; column < BN; column += kStagedColumns)
        if (real[h] && column < columns)
          cp_async16(residuals + row_of(h) * kNearPitch + narrow(column), finish.residual_at(place[h], narrow(first + column)));
  }
  FISEC_DEVICE void finish_columns(int column, const float* staged, int pitch) const {
    Half8 moment[kRows];
#pragma unroll
    for (int h = 0; h < kRows; ++h) moment[h] = finish.time_of(place[h], narrow(first + column));
    float v[kRows][8], gate[8];
#pragma unroll
    for (int h = 0; h < kRows; ++h) {
      load8(staged + h * kRowStep * pitch, v[h]);
      if (finish.has_norm()) Finish::norm(norms.row[h], sums + column, v[h]);
      if (finish.has_bias()) Finish::add(v[h], load8(biases + column));
    }
    if (GATED) {
      load8(staged + 8, gate);
      if (finish.has_norm()) Finish::norm(norms.row[0], sums + column + 8, gate);
      if (finish.has_bias()) Finish::add(gate, load8(biases + column + 8));
      Finish::gate_values(v[0], gate);
    }
#pragma unroll
    for (int h = 0; h < kRows; ++h) {
      if (!real[h]) continue;
      Half8 before = finish.has_residual() ? load8(residuals + row_of(h) * kNearPitch + narrow(column)) : Half8{};
      finish.rest<!GATED>(place[h], narrow(first + column), v[h], moment[h], before);
    }
  }

  const Finish& finish;
  RowNorms norms;
  Finish::Place place[kRows];
  bool real[kRows];
  __half *residuals, *biases;
  float* sums;
  int first, columns;
};

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
