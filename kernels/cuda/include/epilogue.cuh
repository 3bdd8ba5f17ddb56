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

  FISEC_DEVICE bool gated() const { return e.flags & kGeglu; }

  // Where a row is in every buffer, in elements: worked out once for all its columns. Buffers have fewer than 2^32 elements.
  struct Place {
    int image;
    uint32_t residual, output, normed;
  };
  FISEC_DEVICE Place place(int image, int row) const {
    Place at = {image, 0, 0, 0};
    if (residual) at.residual = uint32_t(residual_row(image, row)) * uint32_t(e.residual_stride);
    if (output) at.output = uint32_t(output_row(image, row)) * uint32_t(e.output_stride);
    if (normed) at.normed = uint32_t(normed_row(image, row)) * uint32_t(e.normed_stride);
    return at;
  }
  FISEC_DEVICE Half8 time_of(const Place& at, int column) const { return load(time, at.image * e.time_stride + column); }
  FISEC_DEVICE Half8 residual_of(const Place& at, int column) const { return load(residual, size_t(at.residual) + column); }
  FISEC_DEVICE Half8 bias_of(int column) const { return load(bias, column); }
  FISEC_DEVICE static Half8 load(const __half* tensor, size_t offset) { return tensor ? load8(tensor + offset) : Half8{}; }
  FISEC_DEVICE static void add(float (&v)[8], const Half8& more) {
    float t[8];
    unpack(more, t);
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] += t[j];
  }
  FISEC_DEVICE static void gate_values(float (&v)[8], const float (&gate)[8]) {
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] *= gelu(gate[j]);
  }
  // What is left behind bias and gate: eight values from `column` of the output on.
  FISEC_DEVICE void rest(const Place& at, int column, float (&v)[8], const Half8& moment, const Half8& before) const {
    add(v, moment);
    add(v, before);
    if (output) store8(output + size_t(at.output) + column, pack(v));
    if (!normed) return;
    if (affine) {
      const float* scale = affine + size_t(at.image) * 2 * e.affine_channels + column;
      apply_affine(v, scale, scale + e.affine_channels, e.flags & kNormedSilu);
    }
    store8(normed + size_t(at.normed) + column, pack(v));
  }

  // v: eight sums from `column` of row `row` of `image`; gate: the eight behind them, looked at where width() is 16.
  FISEC_DEVICE void operator()(int image, int row, int column, float (&v)[8], float (&gate)[8]) const {
    Place at = place(image, row);
    int narrow = gated() ? column / 2 : column;
    // all that is added first: one wait for all of it
    Half8 value_bias = bias_of(column), gate_bias = load(gated() ? bias : nullptr, column + 8);
    Half8 moment = time_of(at, narrow), before = residual_of(at, narrow);
    add(v, value_bias);
    if (gated()) {
      add(gate, gate_bias);
      gate_values(v, gate);
    }
    rest(at, narrow, v, moment, before);
  }

 private:
  const Epilogue& e;
  const __half *bias, *time, *residual;
  __half *output, *normed;
  const float* affine;
  RowIndex residual_row, output_row, normed_row;
};
