// What happens to a row of a matrix product before it leaves the chip.
#pragma once
#include "math.cuh"

enum EpilogueFlags {
  kGeglu = 1,       // columns come as 8 values, 8 gates, 8 values, ...: write value * gelu(gate), half as many columns
  kNormedSilu = 2,  // `normed` = silu(affine(y)) instead of affine(y)
};

// y = product + bias + time[image] + residual;  output = y;  normed = act(y * scale + shift).
// Because frozen norms are affine, the layer that produces y can write the next layer's normed input itself.
// Absent parts have an absent Address. Strides are in elements and multiples of 8.
struct Epilogue {
  Address bias;      // f16 [cout]
  Address time;      // f16 [images, time_stride]
  Address residual;  // f16 [.., residual_stride]
  Address output;    // f16 [.., output_stride]
  Address normed;    // f16 [.., normed_stride]
  Address affine;    // f32 [images, 2, affine_channels]: scale, then shift
  Rows residual_rows;
  Rows output_rows;
  Rows normed_rows;
  int32_t time_stride;
  int32_t residual_stride;
  int32_t output_stride;
  int32_t normed_stride;
  int32_t affine_channels;
  int32_t flags;
};
static_assert(sizeof(Epilogue) == 192);

class Finish {
 public:
  FISEC_DEVICE Finish(const Epilogue& epilogue, const uint64_t* slots, int live)
      : e(epilogue),
        bias(resolve<const __half>(e.bias, slots)),
        time(resolve<const __half>(e.time, slots)),
        residual(resolve<const __half>(e.residual, slots)),
        output(resolve<__half>(e.output, slots)),
        normed(resolve<__half>(e.normed, slots)),
        affine(resolve<const float>(e.affine, slots)),
        residual_row(resolve(e.residual_rows, live)),
        output_row(resolve(e.output_rows, live)),
        normed_row(resolve(e.normed_rows, live)) {}

  // Columns taken at once: a gated pair of vectors is 16 wide.
  FISEC_DEVICE int width() const { return e.flags & kGeglu ? 16 : 8; }

  // v: eight sums from `column` of row `row` of `image`; gate: the eight behind them, looked at where width() is 16.
  // All that is added is fetched first: one wait for all of it.
  FISEC_DEVICE void operator()(int image, int row, int column, float (&v)[8], float (&gate)[8]) const {
    bool gated = e.flags & kGeglu;
    Half8 value_bias = load(bias, column), gate_bias = load(gated ? bias : nullptr, column + 8);
    if (gated) column /= 2;
    Half8 moment = load(time, size_t(image) * e.time_stride + column);
    Half8 before = load(residual, residual ? residual_row(image, row) * e.residual_stride + column : 0);
    add(v, value_bias);
    if (gated) {
      add(gate, gate_bias);
#pragma unroll
      for (int j = 0; j < 8; ++j) v[j] *= gelu(gate[j]);
    }
    add(v, moment);
    add(v, before);
    if (output) store8(output + output_row(image, row) * e.output_stride + column, pack(v));
    if (!normed) return;
    if (affine) {
      const float* scale = affine + size_t(image) * 2 * e.affine_channels + column;
      apply_affine(v, scale, scale + e.affine_channels, e.flags & kNormedSilu);
    }
    store8(normed + normed_row(image, row) * e.normed_stride + column, pack(v));
  }

 private:
  FISEC_DEVICE static Half8 load(const __half* tensor, size_t offset) { return tensor ? load8(tensor + offset) : Half8{}; }
  FISEC_DEVICE static void add(float (&v)[8], const Half8& more) {
    float t[8];
    unpack(more, t);
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] += t[j];
  }

  const Epilogue& e;
  const __half *bias, *time, *residual;
  __half *output, *normed;
  const float* affine;
  RowIndex residual_row, output_row, normed_row;
};
