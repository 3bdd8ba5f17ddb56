// y = x[:, :C] * gelu(x[:, C:]), for products that come from another library; sparse_conv's epilogue does it in place.
#include "math.cuh"
#include "ptx.cuh"

struct GegluParams {
  Address source;            // f16 [images * live, source_stride >= 2 * channels]
  Address output;            // f16 [images * live, output_stride >= channels]
  uint64_t slots;
  Count live;                // rows of one image
  int32_t images, channels;  // channels of the output: multiple of 8
  int32_t source_stride, output_stride;
};
static_assert(sizeof(GegluParams) == 72);

// 256 threads, grid-stride, eight channels per thread.
extern "C" __global__ void __launch_bounds__(256) geglu(const __grid_constant__ GegluParams p) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const uint64_t* slots = reinterpret_cast<const uint64_t*>(p.slots);
  const __half* source = resolve<const __half>(p.source, slots);
  __half* output = resolve<__half>(p.output, slots);
  int vectors = p.channels / 8, items = p.images * resolve(p.live) * vectors;
  for (int j = blockIdx.x * 256 + threadIdx.x; j < items; j += gridDim.x * 256) {
    int row = j / vectors, channel = (j - row * vectors) * 8;
    const __half* from = source + size_t(row) * p.source_stride + channel;
    float value[8], gate[8];
    unpack(load8(from), value);
    unpack(load8(from + p.channels), gate);
#pragma unroll
    for (int i = 0; i < 8; ++i) value[i] *= gelu(gate[i]);
    store8(output + size_t(row) * p.output_stride + channel, pack(value));
  }
}
