// What happens to a row of a matrix product before it leaves the chip.
#pragma once
#include "math.cuh"

enum EpilogueFlags {
  kGeglu = 1,       // columns come as 8 values, 8 gates, 8 values, ...: write value * gelu(gate), half as many columns
  kNormedSilu = 2,  // `normed` = silu(affine(y)) instead of affine(y)
};

// y = product + bias + time[image] + residual;  output = y;  normed = act(y * scale + shift).
// Because frozen norms are affine, the layer that produces y can write the next layer's normed input itself.
// A layer norm's gamma and beta are folded into weights and bias (fold_norm), its mean and deviation are left: whoever writes a row says in parts
// of kPartColumns what they are, and the product that reads it makes  rstd * (product - mean * column_sums)  of its own.
// Absent parts have an absent Address or 0. Strides are in elements and multiples of 8.
struct Epilogue {
  Address bias;      // f16 [cout]
  Address time;      // f16 [images, time_stride]
  Address residual;  // f16 [.., residual_stride]
  Address output;    // f16 [.., output_stride]
  Address beside[2]; // where the second and the third part_columns of columns go, as the first ones go to `output`
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
  uint64_t row_parts;    // RowPart [images * live, row_part_count], of y: written
  uint64_t norm_parts;   // RowPart [images * live, norm_part_count], of the source's rows: read
  uint64_t column_sums;  // f32 [cout], of the weights: read with norm_parts
  int32_t row_part_count;
  int32_t norm_part_count;
  float norm_epsilon;
  int32_t part_columns;  // 0: all columns go to `output`; a multiple of 8
};
static_assert(sizeof(Epilogue) == 264);

// Mean, and squared deviations from it, of kPartColumns neighbouring values of a row.
constexpr int kPartColumns = 32;
using RowPart = float2;

// The epilogue's tensors. Known once earlier kernels are: slots' addresses are theirs to write.
struct Bases {
  const __half *bias, *time, *residual;
  __half *output, *beside[2], *normed;
  const float* affine;
  FISEC_DEVICE Bases(const Epilogue& e, const uint64_t* slots)
      : bias(resolve<const __half>(e.bias, slots)),
        time(resolve<const __half>(e.time, slots)),
        residual(resolve<const __half>(e.residual, slots)),
        output(resolve<__half>(e.output, slots)),
        beside{resolve<__half>(e.beside[0], slots), resolve<__half>(e.beside[1], slots)},
        normed(resolve<__half>(e.normed, slots)),
        affine(resolve<const float>(e.affine, slots)) {}
};

// Where a row is in every buffer, in elements: worked out once for all its columns. Buffers have fewer than 2^32 elements.
struct Place {
  int image;
  uint32_t packed, residual, output, normed;
};

// How rows are found in the buffers: lists and counts, which no kernel writes.
class Where {
 public:
  FISEC_DEVICE Where(const Epilogue& epilogue, int live)
      : e(epilogue), rows(live), residual_row(resolve(e.residual_rows, live)), output_row(resolve(e.output_rows, live)),
        normed_row(resolve(e.normed_rows, live)) {}
  FISEC_DEVICE Place place(int image, int row) const {
    Place at = {image, uint32_t(image * rows + row), 0, 0, 0};
    if (present(e.residual)) at.residual = uint32_t(residual_row(image, row)) * uint32_t(e.residual_stride);
    if (present(e.output)) at.output = uint32_t(output_row(image, row)) * uint32_t(e.output_stride);
    if (present(e.normed)) at.normed = uint32_t(normed_row(image, row)) * uint32_t(e.normed_stride);
    return at;
  }

 private:
  const Epilogue& e;
  int rows;
  RowIndex residual_row, output_row, normed_row;
};

// Scale and shift of eight columns, where there are any.
struct Scaling {
  bool any;
  float scale[8], shift[8];
  // `from`: null, or the scales; shifts lie `to_shift` behind them.
  FISEC_DEVICE Scaling(const float* from, int to_shift) : any(from) {
    if (any) load8(from, scale), load8(from + to_shift, shift);
  }
};

class Finish {
 public:
  FISEC_DEVICE Finish(const Epilogue& epilogue, const Bases& bases) : e(epilogue), at_(bases) {}

  // A gated pair of vectors is 16 columns wide.
  FISEC_DEVICE bool gated() const { return e.flags & kGeglu; }

  FISEC_DEVICE Half8 time_of(const Place& at, int column) const { return load(at_.time, at.image * e.time_stride + column); }
  FISEC_DEVICE Half8 residual_of(const Place& at, int column) const { return load(at_.residual, size_t(at.residual) + column); }
  FISEC_DEVICE Half8 bias_of(int column) const { return load(at_.bias, column); }
  FISEC_DEVICE bool has_bias() const { return at_.bias; }
  FISEC_DEVICE Scaling scaling_of(const Place& at, int column) const {
    return Scaling(at_.affine ? at_.affine + size_t(at.image) * 2 * e.affine_channels + column : nullptr, e.affine_channels);
  }
  FISEC_DEVICE static Half8 load(const __half* tensor, size_t offset) { return tensor ? load8(tensor + offset) : Half8{}; }
  FISEC_DEVICE static void add(float (&v)[8], const Half8& more) {
    float t[8];
    unpack(more, t);
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] += t[j];
  }
  // What the layer norm before the product needs of a row.
  struct RowNorm {
    float mean, rstd;
  };
  FISEC_DEVICE bool has_norm() const { return e.norm_parts; }
  // Joins the parts of a packed row, for which LANES neighbouring lanes ask. Deviations are counted from the first part's mean, near which all are.
  template <int LANES>
  FISEC_DEVICE static RowNorm norm_of(const Epilogue& e, int packed) {
    constexpr int kAtOnce = 10;
    const RowPart* parts = reinterpret_cast<const RowPart*>(e.norm_parts) + size_t(packed) * e.norm_part_count;
    float first = parts[0].x, sum = 0.0f, square = 0.0f, inside = 0.0f;
#pragma unroll 1
    for (int begin = threadIdx.x % LANES; begin < e.norm_part_count; begin += LANES * kAtOnce) {
      RowPart mine[kAtOnce];  // all on their way at once
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) mine[j] = begin + j * LANES < e.norm_part_count ? parts[begin + j * LANES] : make_float2(first, 0.0f);
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        float off = mine[j].x - first;
        sum += off, square = fmaf(off, off, square), inside += mine[j].y;
      }
    }
#pragma unroll
    for (int lanes = 1; lanes < LANES; lanes *= 2) {
      sum += shuffle_xor_among<LANES>(sum, lanes);
      square += shuffle_xor_among<LANES>(square, lanes);
      inside += shuffle_xor_among<LANES>(inside, lanes);
    }
    float count = float(e.norm_part_count), off = sum / count;
    return {first + off, rsqrtf(fmaxf(square / count - off * off, 0.0f) + inside / (count * kPartColumns) + e.norm_epsilon)};
  }
  FISEC_DEVICE __half* output_at(const Place& at, int column) const {
    __half* base = at_.output;
    int width = e.part_columns;
    if (width && column >= width) {
      bool third = column >= 2 * width;
      base = third ? at_.beside[1] : at_.beside[0], column -= third ? 2 * width : width;
    }
    return base + size_t(at.output) + column;
  }
  FISEC_DEVICE static const float* column_sums_at(const Epilogue& e, int column) { return reinterpret_cast<const float*>(e.column_sums) + column; }
  // The norm of eight sums of a product, whose column sums are at `column_sums`.
  FISEC_DEVICE static void norm(const RowNorm& row, const float* column_sums, float (&v)[8]) {
    float sums[8];
    load8(column_sums, sums);
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = row.rstd * fmaf(-row.mean, sums[j], v[j]);
  }
  FISEC_DEVICE static void gate_values(float (&v)[8], const float (&gate)[8]) {
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] *= gelu(gate[j]);
  }
  // What is left behind bias and gate: eight values from `column` of the output on. PARTS: those of the row are written too, where asked for.
  template <bool PARTS>
  FISEC_DEVICE void write(const Place& at, int column, float (&v)[8], const Half8& moment, const Half8& before) const {
    add(v, moment);
    add(v, before);
    if (at_.output) store8(output_at(at, column), pack(v));
    if (PARTS && e.row_parts) write_part(at, column, v);
  }
  // Then, where there is a second output:
  FISEC_DEVICE bool has_normed() const { return at_.normed; }
  FISEC_DEVICE void write_normed(const Place& at, int column, float (&v)[8], const Scaling& scaling) const {
    if (scaling.any) scale_shift(v, scaling.scale, scaling.shift, e.flags & kNormedSilu);
    store8(at_.normed + size_t(at.normed) + column, pack(v));
  }

  // All that is added to eight sums (gated: sixteen) from `column` on: one wait for all of it.
  struct Added {
    Half8 bias, gate_bias, time, residual;
    RowNorm norm;
    Scaling scaling;
  };
  template <bool GATED>
  FISEC_DEVICE Added fetch(const Place& at, int column) const {
    int narrow = GATED ? column / 2 : column;
    RowNorm norm = {};
    if (has_norm()) norm = norm_of<GATED ? 2 : 4>(e, at.packed);
    return {bias_of(column), GATED ? bias_of(column + 8) : Half8{}, time_of(at, narrow), residual_of(at, narrow), norm, scaling_of(at, narrow)};
  }
  // v: eight sums from `column` on; gate: the eight behind them.
  template <bool GATED>
  FISEC_DEVICE void apply(const Added& added, const Place& at, int column, float (&v)[8], float (&gate)[8]) const {
    if (has_norm()) {
      norm(added.norm, column_sums_at(e, column), v);
      if (GATED) norm(added.norm, column_sums_at(e, column + 8), gate);
    }
    add(v, added.bias);
    if (GATED) {
      add(gate, added.gate_bias);
      gate_values(v, gate);
    }
    write<!GATED>(at, GATED ? column / 2 : column, v, added.time, added.residual);
    if (has_normed()) write_normed(at, GATED ? column / 2 : column, v, added.scaling);
  }

 private:
  // Four lanes have the 32 values of a part.
  FISEC_DEVICE void write_part(const Place& at, int column, const float (&v)[8]) const {
    float sum = 0.0f, square = 0.0f;
#pragma unroll
    for (int j = 0; j < 8; ++j) sum += v[j];
    float mean = sum / 8;
    mean += shuffle_xor_among<4>(mean, 1);
    mean = (mean + shuffle_xor_among<4>(mean, 2)) / 4;
#pragma unroll
    for (int j = 0; j < 8; ++j) square = fmaf(v[j] - mean, v[j] - mean, square);
    square += shuffle_xor_among<4>(square, 1);
    square += shuffle_xor_among<4>(square, 2);
    if (column % kPartColumns == 0)
      reinterpret_cast<RowPart*>(e.row_parts)[size_t(at.packed) * e.row_part_count + column / kPartColumns] = make_float2(mean, square);
  }

  const Epilogue& e;
  const Bases& at_;  // where they are scarce, not in registers
};
