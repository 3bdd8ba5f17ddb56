// Layer norm of packed rows: y = (x - mean) * rstd * gamma + beta, mean and variance in two passes over registers.
#include "math.cuh"
#include "ptx.cuh"

struct LayerNormParams {
  Address source;            // f16 [images * live, source_stride]
  Address output;            // f16 [images * live, output_stride]
  uint64_t gamma, beta;      // f16 [channels]
  uint64_t slots;
  Count live;                // rows of one image
  int32_t images, channels;  // channels: multiple of 8, at most 2048
  int32_t source_stride, output_stride;
  float epsilon;
  int32_t reserved;
};
static_assert(sizeof(LayerNormParams) == 96);

constexpr int kVectors = 8;  // of 8 channels per lane: 32 * 8 * 8 = 2048 channels

FISEC_DEVICE float warp_sum(float v) {
  for (int lanes = 16; lanes; lanes /= 2) v += shuffle_xor(v, lanes);
  return v;
}

// One warp per row, 128 threads, grid-stride.
extern "C" __global__ void __launch_bounds__(128) layer_norm(const __grid_constant__ LayerNormParams p) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const uint64_t* slots = reinterpret_cast<const uint64_t*>(p.slots);
  const __half* source = resolve<const __half>(p.source, slots);
  __half* output = resolve<__half>(p.output, slots);
  const __half *gamma = reinterpret_cast<const __half*>(p.gamma), *beta = reinterpret_cast<const __half*>(p.beta);
  int rows = p.images * resolve(p.live), lane = threadIdx.x % 32;
  for (int row = blockIdx.x * 4 + threadIdx.x / 32; row < rows; row += gridDim.x * 4) {
    float v[kVectors][8], sum = 0.0f, square = 0.0f;
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
      int channel = (j * 32 + lane) * 8;
      if (channel >= p.channels) continue;
      unpack(load8(source + size_t(row) * p.source_stride + channel), v[j]);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum += v[j][i];
    }
    float mean = warp_sum(sum) / p.channels;
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
      if ((j * 32 + lane) * 8 >= p.channels) continue;
#pragma unroll
      for (int i = 0; i < 8; ++i) v[j][i] -= mean, square = fmaf(v[j][i], v[j][i], square);
    }
    float rstd = rsqrtf(warp_sum(square) / p.channels + p.epsilon);
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
      int channel = (j * 32 + lane) * 8;
      if (channel >= p.channels) continue;
      float g[8], b[8];
      unpack(load8(gamma + channel), g);
      unpack(load8(beta + channel), b);
#pragma unroll
      for (int i = 0; i < 8; ++i) v[j][i] = fmaf(v[j][i] * rstd, g[i], b[i]);
      store8(output + size_t(row) * p.output_stride + channel, pack(v[j]));
    }
  }
}
