// Vectors of eight f16 (16 bytes, the widest access) and the pointwise functions of the U-Net.
#pragma once
#include "types.cuh"

struct Half8 {
  uint4 bits;
};

FISEC_DEVICE void unpack(const Half8& h, float (&v)[8]) {
  const __half2* pairs = reinterpret_cast<const __half2*>(&h.bits);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    float2 f = __half22float2(pairs[j]);
    v[2 * j] = f.x;
    v[2 * j + 1] = f.y;
  }
}

FISEC_DEVICE Half8 pack(const float (&v)[8]) {
  Half8 h;
  __half2* pairs = reinterpret_cast<__half2*>(&h.bits);
#pragma unroll
  for (int j = 0; j < 4; ++j) pairs[j] = __floats2half2_rn(v[2 * j], v[2 * j + 1]);
  return h;
}

FISEC_DEVICE Half8 load8(const __half* p) { return {*reinterpret_cast<const uint4*>(p)}; }
FISEC_DEVICE void store8(__half* p, const Half8& h) { *reinterpret_cast<uint4*>(p) = h.bits; }

FISEC_DEVICE void load8(const float* p, float (&v)[8]) {
  float4 a = reinterpret_cast<const float4*>(p)[0], b = reinterpret_cast<const float4*>(p)[1];
  v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}
FISEC_DEVICE void store8(float* p, const float (&v)[8]) {
  reinterpret_cast<float4*>(p)[0] = make_float4(v[0], v[1], v[2], v[3]);
  reinterpret_cast<float4*>(p)[1] = make_float4(v[4], v[5], v[6], v[7]);
}

FISEC_DEVICE float silu(float x) { return x / (1.0f + expf(-x)); }
FISEC_DEVICE float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }  // the exact, erf form

// Frozen group norm is affine per channel: y = x * scale[c] + shift[c], then SiLU where asked.
FISEC_DEVICE void apply_affine(float (&v)[8], const float* scale, const float* shift, bool with_silu) {
  float a[8], b[8];
  load8(scale, a);
  load8(shift, b);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    v[j] = fmaf(v[j], a[j], b[j]);
    if (with_silu) v[j] = silu(v[j]);
  }
}
