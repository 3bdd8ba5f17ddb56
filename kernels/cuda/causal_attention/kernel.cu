// Self-attention in which a token sees itself and those before it: a text encoder's, so short sequences.
//   out[i] = softmax(scale * q[i] . k[..=i]^T) v[..=i]      f16 in and out, everything between in f32
// README.md has the contract.
#include "math.cuh"
#include "ptx.cuh"

struct CausalParams {
  Address query, key, value, output;  // f16 [images * tokens, stride], heads side by side
  uint64_t slots;
  int32_t images, tokens, heads, dim;
  int32_t query_stride, key_stride, value_stride, output_stride;  // elements, multiples of 8
  float scale_log2;  // factor on the scores times log2(e)
  int32_t reserved;
};
static_assert(sizeof(CausalParams) == 112);

constexpr int kWarps = 4;

FISEC_DEVICE float warp_max(float v) {
  for (int lanes = 16; lanes; lanes /= 2) v = fmaxf(v, shuffle_xor(v, lanes));
  return v;
}
FISEC_DEVICE float warp_sum(float v) {
  for (int lanes = 16; lanes; lanes /= 2) v += shuffle_xor(v, lanes);
  return v;
}

FISEC_DEVICE float dot(const float* query, const __half* key, int dim) {
  float sum = 0.0f;
  for (int c = 0; c < dim; c += 8) {
    float k[8];
    unpack(load8(key + c), k);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum = fmaf(query[c + i], k[i], sum);
  }
  return sum;
}

// 128 threads, a warp per query; grid (ceil(tokens / 4), images * heads); shared: 4 * (dim + tokens) floats.
extern "C" __global__ void __launch_bounds__(32 * kWarps) causal_attention(const __grid_constant__ CausalParams p) {
  DYNAMIC_SHARED(memory);
  let_next_kernel_start();
  wait_for_previous_kernel();
  const uint64_t* slots = reinterpret_cast<const uint64_t*>(p.slots);
  int image = blockIdx.y / p.heads, column = (blockIdx.y - image * p.heads) * p.dim;
  size_t first = size_t(image) * p.tokens;
  const __half* query = resolve<const __half>(p.query, slots) + first * p.query_stride + column;
  const __half* key = resolve<const __half>(p.key, slots) + first * p.key_stride + column;
  const __half* value = resolve<const __half>(p.value, slots) + first * p.value_stride + column;
  __half* output = resolve<__half>(p.output, slots) + first * p.output_stride + column;

  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = blockIdx.x * kWarps + warp;
  bool live = row < p.tokens;
  float* own = reinterpret_cast<float*>(memory) + warp * (p.dim + p.tokens);
  float* shares = own + p.dim;
  for (int c = lane; c < p.dim; c += 32) own[c] = live ? __half2float(query[size_t(row) * p.query_stride + c]) : 0.0f;
  __syncthreads();

  float top = -INFINITY, total = 0.0f;
  int keys = live ? row + 1 : 0;
  for (int j = lane; j < keys; j += 32) {
    shares[j] = dot(own, key + size_t(j) * p.key_stride, p.dim) * p.scale_log2;
    top = fmaxf(top, shares[j]);
  }
  top = warp_max(top);
  for (int j = lane; j < keys; j += 32) {
    shares[j] = exp2_fast(shares[j] - top);
    total += shares[j];
  }
  total = warp_sum(total);
  __syncthreads();

  for (int c = lane; c < p.dim && live; c += 32) {
    float sum = 0.0f;
    for (int j = 0; j < keys; ++j) sum = fmaf(shares[j], __half2float(value[size_t(j) * p.value_stride + c]), sum);
    output[size_t(row) * p.output_stride + c] = __float2half_rn(sum / total);
  }
}
