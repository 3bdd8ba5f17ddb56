// The sampler's side of a step, on f32 latents [pixels][4]. Every sampler is a row of linear coefficients.
#include "math.cuh"
#include "ptx.cuh"

// One row per step. e is the guided prediction (epsilon or v), h the history, newest first.
struct StepCoefficients {
  float guidance;     // e = e_negative + guidance * (e_positive - e_negative)
  float x_x, x_e;     // x' = x_x * x + x_e * e + sum x_h[i] * h[i]
  float x_h[3];
  float h_x, h_e;     // the new history entry = h_x * x + h_e * e
  float input_scale;  // the next model input = input_scale * x'
  float reserved[3];
};

struct UpdateParams {
  Address latent;            // f32 [pixels][4], read
  Address updated;           // f32 [pixels][4], written; may be `latent`
  Address prediction;        // f16 [2][rows][prediction_stride]: negative prompt, prompt
  Address history[3];        // f32 [pixels][4], absent where the sampler has none
  Address history_out;       // f32 [pixels][4] or absent; may be the oldest history
  Address recorded;          // f32 [pixels][4]: the base image's latent after this step, read outside the mask
  Address recorded_history;  // f32 [pixels][4]: likewise; absent: history outside the mask is not restored
  Address input;             // f16 [2][pixels][input_stride] or absent: both halves alike, channels 4..8 zero
  uint64_t ranks;            // const int32_t* [pixels]: row of the prediction, -1 outside the mask; 0: row = pixel
  uint64_t coefficients;     // const StepCoefficients*
  uint64_t step;             // const int32_t*: the row to use
  uint64_t slots;
  int32_t pixels, rows, prediction_stride, input_stride;  // rows of the prediction of one image
};
static_assert(sizeof(UpdateParams) == 208);

FISEC_DEVICE float4 axpy(float a, float4 x, float4 y) {
  return make_float4(fmaf(a, x.x, y.x), fmaf(a, x.y, y.y), fmaf(a, x.z, y.z), fmaf(a, x.w, y.w));
}

FISEC_DEVICE float4 load4(const __half* p) {
  float2 a = __half22float2(reinterpret_cast<const __half2*>(p)[0]), b = __half22float2(reinterpret_cast<const __half2*>(p)[1]);
  return make_float4(a.x, a.y, b.x, b.y);
}

// 128 threads, one pixel each.
extern "C" __global__ void __launch_bounds__(128) latent_update(const __grid_constant__ UpdateParams p) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const uint64_t* slots = reinterpret_cast<const uint64_t*>(p.slots);
  const StepCoefficients& c = reinterpret_cast<const StepCoefficients*>(p.coefficients)[*reinterpret_cast<const int32_t*>(p.step)];
  int pixel = blockIdx.x * 128 + threadIdx.x;
  if (pixel >= p.pixels) return;
  const float4 zero = make_float4(0, 0, 0, 0);
  float4 updated, entry;
  int row = p.ranks ? reinterpret_cast<const int32_t*>(p.ranks)[pixel] : pixel;
  if (row >= 0) {
    float4 x = resolve<const float4>(p.latent, slots)[pixel];
    const __half* prediction = resolve<const __half>(p.prediction, slots);
    float4 negative = load4(prediction + size_t(row) * p.prediction_stride);
    float4 positive = load4(prediction + size_t(p.rows + row) * p.prediction_stride);
    // 1 is no guidance: the prompt's prediction, without a rounding
    float4 e = c.guidance == 1.0f ? positive : axpy(c.guidance, axpy(-1.0f, negative, positive), negative);
    entry = axpy(c.h_x, x, axpy(c.h_e, e, zero));
    updated = axpy(c.x_x, x, axpy(c.x_e, e, zero));
#pragma unroll
    for (int i = 0; i < 3; ++i)
      if (present(p.history[i])) updated = axpy(c.x_h[i], resolve<const float4>(p.history[i], slots)[pixel], updated);
  } else {
    updated = resolve<const float4>(p.recorded, slots)[pixel];
    entry = present(p.recorded_history) ? resolve<const float4>(p.recorded_history, slots)[pixel] : zero;
  }
  resolve<float4>(p.updated, slots)[pixel] = updated;
  if (present(p.history_out)) resolve<float4>(p.history_out, slots)[pixel] = entry;
  if (!present(p.input)) return;
  float v[8] = {updated.x * c.input_scale, updated.y * c.input_scale, updated.z * c.input_scale, updated.w * c.input_scale, 0, 0, 0, 0};
  __half* input = resolve<__half>(p.input, slots) + size_t(pixel) * p.input_stride;
  store8(input, pack(v));
  store8(input + size_t(p.pixels) * p.input_stride, pack(v));
}
