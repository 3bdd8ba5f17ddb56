// A block's only tile on its way out: all that is added to its sums is there when the products are; or sums as they are, into the workspace.
#pragma once
#include "conv.cuh"
#include "wgmma.cuh"

// Where a lane's sums belong: the first of its two rows, the first of its pair of columns.
struct LanePlace {
  int row, pair;
  FISEC_DEVICE LanePlace(int first_row, int first_column)
      : row(first_row + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4), pair(first_column + threadIdx.x % 4 * 2) {}
};

// All that an epilogue adds to a tile's sums, and where its rows go, in shared memory: the warps that fetch bring it while the others multiply. `norms`,
// the rows' layer norms, somebody else finds.
template <int BM, int BN, bool GATED>
class Near {
 public:
  static constexpr int kPitch = BN + 8, kImages = 2;  // of f16; images whose coefficients are here
  static constexpr int kBytes = BM * kPitch * 2 + BN * 2 + kImages * BN * 2 + BN * 4 + kImages * 2 * BN * 4 + BM * 16 + int(sizeof(Bases));

  FISEC_DEVICE Near(const ConvParams& params, int live_, int first_row_, int first_column, unsigned char* memory, float2* norms_)
      : p(params), live(live_), first_row(first_row_), first(first_column),
        columns(min(BN, p.cout - first_column)), first_image(ImageRow(first_row_, live_).image),
        residuals(reinterpret_cast<__half*>(memory)), biases(residuals + BM * kPitch), moments(biases + BN),
        column_sums(reinterpret_cast<float*>(moments + kImages * BN)), affine(column_sums + BN),
        norms(norms_), places(reinterpret_cast<int4*>(affine + kImages * 2 * BN)),
        bases(reinterpret_cast<Bases*>(places + BM)) {}

  // By 128 threads; what they bring is there for those who meet them afterwards.
  FISEC_DEVICE void bring() const {
    Bases found(p.epilogue, reinterpret_cast<const uint64_t*>(p.slots));
    if (threadIdx.x % 128 == 0) *bases = found;
    uint32_t residual[kRows];
    look(residual);
    if (found.residual) bring_residuals(found.residual, residual);
    if (found.bias) bring_line(biases, found.bias + first, columns);
    if (p.epilogue.norm_parts) bring_line(column_sums, Finish::column_sums_at(p.epilogue, first), columns);
#pragma unroll 1
    for (int k = 0; k < kImages && first_image + k < p.images; ++k) {
      int image = first_image + k, width = narrow(columns);
      if (found.time) bring_line(moments + k * BN, found.time + image * p.epilogue.time_stride + narrow(first), width);
      if (!found.affine) continue;
      const float* scale = found.affine + size_t(image) * 2 * p.epilogue.affine_channels + narrow(first);
      bring_line(affine + k * 2 * BN, scale, width);
      bring_line(affine + (k * 2 + 1) * BN, scale + p.epilogue.affine_channels, width);
    }
    cp_async_commit();
    cp_async_wait<0>();
  }

  // By THREADS threads; `staged`: the tile's sums.
  template <int THREADS>
  FISEC_DEVICE void finish(const float* staged, int pitch) const {
    constexpr int kWidth = GATED ? 16 : 8, kLanes = 32 / kWidth, kGroups = BN / 32;
    int rows = min(BM, p.images * live - first_row);
    Finish finish(p.epilogue, *bases);
#pragma unroll 1
    for (int j = threadIdx.x / kLanes; j < rows * kGroups; j += THREADS / kLanes) {
      int r = j / kGroups, column = (j - r * kGroups) * 32 + threadIdx.x % kLanes * kWidth;
      if (column < columns) finish_columns(finish, r, column, staged + r * pitch + column);
    }
  }

 private:
  static constexpr int kRows = BM / 32;  // of every fourth of the fetching threads
  FISEC_DEVICE int narrow(int column) const { return GATED ? column / 2 : column; }

  FISEC_DEVICE void look(uint32_t (&residual)[kRows]) const {
    Where where(p.epilogue, live);
#pragma unroll
    for (int h = 0; h < kRows; ++h) {
      int r = threadIdx.x % 128 / 4 + h * 32;
      ImageRow at(min(first_row + r, p.images * live - 1), live);
      Place place = where.place(at.image, at.row);
      residual[h] = place.residual;
      if (threadIdx.x % 4 == 0) places[r] = make_int4(place.image, int(place.packed), int(place.output), int(place.normed));
    }
  }
  FISEC_DEVICE void bring_residuals(const __half* from, const uint32_t (&residual)[kRows]) const {
    int width = narrow(columns), rows = p.images * live - first_row;
#pragma unroll
    for (int h = 0; h < kRows; ++h) {
      int r = threadIdx.x % 128 / 4 + h * 32;
#pragma unroll
      for (int c = threadIdx.x % 4 * 8; c < BN; c += 32)
        if (r < rows && c < width) cp_async16(residuals + r * kPitch + c, from + size_t(residual[h]) + narrow(first) + c);
    }
  }
  template <typename T>
  FISEC_DEVICE void bring_line(T* to, const T* from, int width) const {
    constexpr int kChunk = 16 / sizeof(T);
    int c = threadIdx.x % 128 * kChunk;
    if (c < width) cp_async16(to + c, from + c);
  }

  FISEC_DEVICE void finish_columns(const Finish& finish, int r, int column, const float* staged) const {
    int4 where = places[r];
    Place at = {where.x, uint32_t(where.y), 0, uint32_t(where.z), uint32_t(where.w)};
    float2 norm = p.epilogue.norm_parts ? norms[r] : make_float2(0.0f, 1.0f);
    float v[8];
    sums_of(staged, column, norm, v);
    if (GATED) {
      float gate[8];
      sums_of(staged + 8, column + 8, norm, gate);
      Finish::gate_values(v, gate);
    }
    int c = GATED ? column / 2 : column, image = at.image - first_image, out = (GATED ? first / 2 : first) + c;
    Half8 before = present(p.epilogue.residual) ? load8(residuals + r * kPitch + c) : Half8{};
    bool here = image < kImages;
    Half8 moment = !present(p.epilogue.time) ? Half8{} : here ? load8(moments + image * BN + c) : finish.time_of(at, out);
    finish.write<!GATED>(at, out, v, moment, before);
    if (!finish.has_normed()) return;
    if (here) finish.write_normed(at, out, v, Scaling(present(p.epilogue.affine) ? affine + image * 2 * BN + c : nullptr, BN));
    else finish.write_normed(at, out, v, finish.scaling_of(at, out));
  }
  // Eight sums, their layer norm and bias.
  FISEC_DEVICE void sums_of(const float* staged, int column, float2 norm, float (&v)[8]) const {
    load8(staged, v);
    if (p.epilogue.norm_parts) Finish::norm({norm.x, norm.y}, column_sums + column, v);
    if (present(p.epilogue.bias)) Finish::add(v, load8(biases + column));
  }

  const ConvParams& p;
  int live, first_row;
  int first, columns, first_image;
  __half *residuals, *biases, *moments;
  float *column_sums, *affine;
  float2* norms;
  int4* places;
  Bases* bases;
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
