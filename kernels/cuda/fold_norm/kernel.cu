// A layer norm's gamma and beta into the product behind it, once when weights are loaded:
//   weights[k][n] *= gamma[k];  bias[n] += sum over k of beta[k] * weights[k][n];  column_sums[n] = sum over k of the new weights[k][n].
#include "math.cuh"
#include "ptx.cuh"

struct FoldParams {
  uint64_t weights;      // f16 [k_tiles][cout][64], swizzled: sparse_conv's README.md; changed in place
  uint64_t gamma, beta;  // f16 [channels]
  uint64_t bias;         // f16 [cout], or 0
  uint64_t folded_bias;  // f16 [cout]: written
  uint64_t column_sums;  // f32 [cout]: written
  int32_t channels;      // multiple of 8
  int32_t cout;
};
static_assert(sizeof(FoldParams) == 56);

FISEC_DEVICE float warp_sum(float v) {
  for (int lanes = 16; lanes; lanes /= 2) v += shuffle_xor(v, lanes);
  return v;
}

// One warp per column, 128 threads; eight lanes a line, four tiles of K at once.
extern "C" __global__ void __launch_bounds__(128) fold_norm(const __grid_constant__ FoldParams p) {
  __half* weights = reinterpret_cast<__half*>(p.weights);
  const __half *gamma = reinterpret_cast<const __half*>(p.gamma), *beta = reinterpret_cast<const __half*>(p.beta);
  int lane = threadIdx.x % 32, column = blockIdx.x * 4 + threadIdx.x / 32;
  if (column >= p.cout) return;
  float sum = 0.0f, shift = 0.0f;
  for (int tile = lane / 8; tile * 64 < p.channels; tile += 4) {
    int channel = tile * 64 + (lane ^ column) % 8 * 8;
    if (channel >= p.channels) continue;
    __half* at = weights + (size_t(tile) * p.cout + column) * 64 + lane % 8 * 8;
    float w[8], g[8], b[8];
    unpack(load8(at), w);
    unpack(load8(gamma + channel), g);
    unpack(load8(beta + channel), b);
#pragma unroll
    for (int j = 0; j < 8; ++j) shift = fmaf(b[j], w[j], shift), w[j] *= g[j];
    Half8 folded = pack(w);
    store8(at, folded);
    unpack(folded, w);  // the sums are those of what is multiplied
#pragma unroll
    for (int j = 0; j < 8; ++j) sum += w[j];
  }
  sum = warp_sum(sum), shift = warp_sum(shift);
  if (lane) return;
  float bias = p.bias ? __half2float(reinterpret_cast<const __half*>(p.bias)[column]) : 0.0f;
  reinterpret_cast<__half*>(p.folded_bias)[column] = __float2half_rn(bias + shift);
  reinterpret_cast<float*>(p.column_sums)[column] = sum;
}
