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

// A complete tile of BN columns: sums[n * 4 ..] are columns 8n of the lane's pair, of its two rows. `staged`: kStagedBytes for each warpgroup.
template <int BN>
FISEC_DEVICE void finish_sums(const ConvParams& p, const Finish& finish, int live, int first_row, int first_column, const float (&sums)[BN / 2], float* staged) {
  int group = uniform(threadIdx.x / 128);
  staged += group * (kStagedBytes / 4);
#pragma unroll 1
  for (int round = 0; round < BN / kStagedColumns; ++round) {
    stage_sums<BN>(sums, round, staged);
    named_wait<128>(4 + group);
    finish_staged<64, kStagedColumns, 128>(p, finish, live, first_row + group * 64, first_column + round * kStagedColumns, staged, kStagedPitch);
    named_wait<128>(4 + group);
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
