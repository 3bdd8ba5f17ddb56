// A warpgroup product's sums on their way out through a small piece of shared memory, while the next tile's stages are fetched.
#pragma once
#include "conv.cuh"
#include "wgmma.cuh"

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

// What is added to the columns of a tile: brought by the warps that fetch, with the first tile of K.
template <int BN>
struct Columns {
  static constexpr int kBytes = BN * 2 + BN * 4;
  __half* biases;
  float* sums;
  FISEC_DEVICE explicit Columns(unsigned char* memory) : biases(reinterpret_cast<__half*>(memory)), sums(reinterpret_cast<float*>(biases + BN)) {}
  // By 128 threads: starts to bring those from `first_column` on. SUMS: column sums too, where a layer norm asks for them.
  template <bool SUMS>
  FISEC_DEVICE void bring(const ConvParams& p, const __half* bias, int first_column) const {
    int chunk = threadIdx.x % 128, columns = min(BN, p.cout - first_column);
    if (chunk * 8 < columns && bias) cp_async16(biases + chunk * 8, bias + first_column + chunk * 8);
    if (SUMS && chunk * 4 < columns && p.epilogue.norm_parts) cp_async16(sums + chunk * 4, Finish::column_sums_at(p.epilogue, first_column + chunk * 4));
  }
};

// What one thread of a warpgroup does to every 32 columns of a tile: to sixteen of a row, eight values and their gates or two times eight. Where the row
// goes is worked out once a tile, and residuals of the next columns are on their way while these are finished. Layer norms where columns are gated alone:
// registers do not allow for more.
template <int BN, bool GATED>
class TileFinish {
 public:
  static constexpr int kRounds = BN / kStagedColumns;

  FISEC_DEVICE TileFinish(const ConvParams& p, const Finish& finish_, int live, int first_row, int first_column)
      : finish(finish_), first(first_column), columns(min(BN, p.cout - first_column)), column(threadIdx.x % 2 * (GATED ? 16 : 8)) {
    int row = first_row + threadIdx.x % 128 / 2;
    ImageRow at(min(row, p.images * live - 1), live);
    if (row >= p.images * live) columns = 0;
    place = Where(p.epilogue, live).place(at.image, at.row);
    fetch();
  }

  // The next 32 columns; `staged`: their sums, row 0 of the warpgroup.
  FISEC_DEVICE void operator()(const float* staged, int pitch, const Columns<BN>& added, const Finish::RowNorm& norm) {
    staged += threadIdx.x % 128 / 2 * pitch + column % kStagedColumns;
    Half8 before[kVectors];
#pragma unroll
    for (int h = 0; h < kVectors; ++h) before[h] = residual[h];
    int now = column;
    column += kStagedColumns;
    fetch();
#pragma unroll
    for (int h = 0; h < kVectors; ++h) {
      int c = now + h * 16, out = GATED ? (first + c) / 2 : first + c;
      if (c >= columns) return;
      float v[8];
      sums_of(staged + h * 16, c, added, norm, v);
      if (GATED) {
        float gate[8];
        sums_of(staged + 8, c + 8, added, norm, gate);
        Finish::gate_values(v, gate);
      }
      finish.write<false>(place, out, v, finish.time_of(place, out), before[h]);
      if (finish.has_normed()) finish.write_normed(place, out, v, finish.scaling_of(place, out));
    }
  }

 private:
  static constexpr int kVectors = GATED ? 1 : 2;
  FISEC_DEVICE void sums_of(const float* staged, int c, const Columns<BN>& added, const Finish::RowNorm& norm, float (&v)[8]) const {
    load8(staged, v);
    if (GATED && finish.has_norm()) Finish::norm(norm, added.sums + c, v);
    if (finish.has_bias()) Finish::add(v, load8(added.biases + c));
  }
  FISEC_DEVICE void fetch() {
#pragma unroll
    for (int h = 0; h < kVectors; ++h) {
      int c = column + h * 16;
      residual[h] = c < columns ? finish.residual_of(place, GATED ? (first + c) / 2 : first + c) : Half8{};
    }
  }

  const Finish& finish;
  int first, columns, column;
  Place place;
  Half8 residual[kVectors];
};

// A complete tile: sums[n * 4 ..] are columns 8n of the lane's pair, of its two rows. 32 columns after another through `staged`, the warpgroup's own.
template <int BN, bool GATED>
FISEC_DEVICE void finish_sums(const ConvParams& p, const Finish& finish, int live, int first_row, int first_column, const float (&sums)[BN / 2], int group, float* staged,
                              const Columns<BN>& added, const Finish::RowNorm& norm) {
  TileFinish<BN, GATED> tile(p, finish, live, first_row + group * 64, first_column);
#pragma unroll 1
  for (int round = 0; round < tile.kRounds; ++round) {
    stage_sums<BN>(sums, round, staged);
    named_wait<128>(4 + group);
    tile(staged, kStagedPitch, added, norm);
    named_wait<128>(4 + group);
  }
}
