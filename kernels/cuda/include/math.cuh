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

FISEC_DEVICE float quick_gelu(float x) { return x * reciprocal_fast(1.0f + exp2_fast(-1.702f * 1.44269504f * x)); }

// The erf form of GELU, x * Phi(x). Phi(x) - 1/2 is x times a polynomial of x^2 fitted for the smallest greatest error of x * Phi(x) on |x| <= 4.25,
// where Phi is 0 or 1 to 1.1e-5: within 8e-5 of GELU for all x up to 6, then 1.1e-5 of x. No special function: those are what an epilogue would wait for.
FISEC_DEVICE float gelu(float x) {
  float at_least = fmaxf(x, -4.25f), inside = fminf(at_least, 4.25f), square = inside * inside;
  constexpr float kSeries[] = {4.54522471e-11f, -4.51381805e-09f, 1.9856644e-07f, -5.14663483e-06f, 8.84801841e-05f,
                               -0.00107902592f, 0.00971861845f,   -0.066190066f,  0.398819155f};
  float series = kSeries[0];
#pragma unroll
  for (int j = 1; j < 9; ++j) series = fmaf(series, square, kSeries[j]);
  return at_least * fmaf(inside, series, 0.5f);
}

// Frozen group norm is affine per channel: y = x * scale[c] + shift[c], then SiLU where asked.
FISEC_DEVICE void scale_shift(float (&v)[8], const float (&scale)[8], const float (&shift)[8], bool with_silu) {
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    v[j] = fmaf(v[j], scale[j], shift[j]);
    if (with_silu) v[j] = silu(v[j]);
  }
}
FISEC_DEVICE void apply_affine(float (&v)[8], const float* scale, const float* shift, bool with_silu) {
  float a[8], b[8];
  load8(scale, a);
  load8(shift, b);
  scale_shift(v, a, b, with_silu);
}
