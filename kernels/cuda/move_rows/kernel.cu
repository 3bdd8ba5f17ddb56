// Rows of maps and packed buffers, moved in one launch for many jobs: gathers, scatters, halo rings, frozen norms.
//   output[row j] = act((source[row j] + addend[row j]) * scale + shift)
#include "math.cuh"
#include "ptx.cuh"

enum MoveFlags { kSilu = 1, kGelu = 2, kQuickGelu = 4 };

struct MoveJob {
  Address source;    // f16
  Address addend;    // f16, found by the same rows and stride as source; absent: nothing is added
  Address affine;    // f32 [images, 2, affine_channels]; absent: plain copy
  Address output;    // f16
  Rows source_rows;
  Rows output_rows;
  Count output_first;  // added to the output row: where the ring starts behind the active rows
  Count rows;          // of one image
  int32_t images, channels;                 // channels: multiple of 8
  int32_t source_stride, output_stride;     // elements, multiples of 8
  int32_t affine_channels, flags;
};
static_assert(sizeof(MoveJob) == 168);

struct MoveParams {
  uint64_t jobs;   // const MoveJob*, gridDim.y of them
  uint64_t slots;
};
static_assert(sizeof(MoveParams) == 16);

// 256 threads; grid (any, jobs), grid-stride in x; eight channels per thread.
extern "C" __global__ void __launch_bounds__(256) move_rows(const __grid_constant__ MoveParams p) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const MoveJob& job = reinterpret_cast<const MoveJob*>(p.jobs)[blockIdx.y];
  const uint64_t* slots = reinterpret_cast<const uint64_t*>(p.slots);
  const __half *source = resolve<const __half>(job.source, slots), *addend = resolve<const __half>(job.addend, slots);
  const float* affine = resolve<const float>(job.affine, slots);
  __half* output = resolve<__half>(job.output, slots);
  int rows = resolve(job.rows), first = resolve(job.output_first), vectors = job.channels / 8;
  RowIndex source_row = resolve(job.source_rows, rows), output_row = resolve(job.output_rows, rows);

  int items = job.images * rows * vectors;
  for (int j = blockIdx.x * 256 + threadIdx.x; j < items; j += gridDim.x * 256) {
    int r = j / vectors, channel = (j - r * vectors) * 8;
    int image = r / rows, row = r - image * rows;
    size_t from = source_row(image, row) * job.source_stride + channel;
    Half8 moved = load8(source + from);
    if (addend || affine || job.flags) {
      float v[8];
      unpack(moved, v);
      if (addend) {
        float a[8];
        unpack(load8(addend + from), a);
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] += a[i];
      }
      if (affine) {
        const float* scale = affine + size_t(image) * 2 * job.affine_channels + channel;
        apply_affine(v, scale, scale + job.affine_channels, job.flags & kSilu);
      }
      if (job.flags & (kGelu | kQuickGelu)) {
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] = job.flags & kGelu ? gelu(v[i]) : quick_gelu(v[i]);
      }
      moved = pack(v);
    }
    store8(output + (output_row(image, row) + first) * job.output_stride + channel, moved);
  }
}
