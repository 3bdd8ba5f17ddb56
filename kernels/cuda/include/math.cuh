// Vectors of eight f16 (16 bytes, the widest access) and the pointwise functions of the U-Net.
#pragma once
#include "ptx.cuh"

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

FISEC_DEVICE float silu(float x) { return x * reciprocal_fast(1.0f + exp2_fast(-1.44269504f * x)); }

// The erf form of GELU. erf by Abramowitz and Stegun 7.1.26, within 1.5e-7: far below f16's rounding, a third of erff's instructions.
FISEC_DEVICE float gelu(float x) {
  float z = fabsf(x) * 0.70710678f, t = reciprocal_fast(fmaf(0.3275911f, z, 1.0f));
  float series = fmaf(t, fmaf(t, fmaf(t, fmaf(t, 1.061405429f, -1.453152027f), 1.421413741f), -0.284496736f), 0.254829592f) * t;
  float tail = series * exp2_fast(-1.44269504f * z * z);  // 1 - erf(z)
  return 0.5f * x * (x < 0.0f ? tail : 2.0f - tail);
}

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
