// Group norm statistics, turned into one scale and shift per (image, channel).
// Two kernels, no atomics: sums per chunk of rows, then their total in a fixed order.
#include "math.cuh"
#include "ptx.cuh"

constexpr int kThreads = 256, kChunkRows = 64;

struct SumParams {
  Address source[2];         // f16; the second one's channels follow the first one's
  int32_t channels[2];       // multiples of 8
  int32_t source_stride[2];
  Rows source_rows;
  Count rows;                // of one image
  uint64_t partial;          // f32 [images][gridDim.x][2][channels]: sums, sums of squares
  uint64_t slots;
};
static_assert(sizeof(SumParams) == 104);

// Grid (chunks, images): chunk b takes rows b, b + chunks, ... in groups of kChunkRows; chunks may exceed what is needed.
extern "C" __global__ void __launch_bounds__(kThreads) group_norm_sums(const __grid_constant__ SumParams p) {
  __shared__ float shared[kThreads * 16];
  let_next_kernel_start();
  wait_for_previous_kernel();
  const uint64_t* slots = reinterpret_cast<const uint64_t*>(p.slots);
  const __half *first = resolve<const __half>(p.source[0], slots), *second = resolve<const __half>(p.source[1], slots);
  int rows = resolve(p.rows), image = blockIdx.y, channels = p.channels[0] + p.channels[1], vectors = channels / 8;
  RowIndex source_row = resolve(p.source_rows, rows);
  float* out = reinterpret_cast<float*>(p.partial) + (size_t(image) * gridDim.x + blockIdx.x) * 2 * channels;

  for (int base = 0; base < vectors; base += kThreads) {
    int width = min(vectors - base, kThreads), lanes = kThreads / width;  // lanes: rows read at once
    int vector = base + threadIdx.x % width, lane = threadIdx.x / width, channel = vector * 8;
    float sum[8] = {}, square[8] = {};
    if (lane < lanes) {
      bool late = channel >= p.channels[0];
      const __half* source = late ? second + channel - p.channels[0] : first + channel;
      int stride = p.source_stride[late];
      for (int chunk = blockIdx.x * kChunkRows; chunk < rows; chunk += gridDim.x * kChunkRows)
#pragma unroll 4  // loads in flight
        for (int row = chunk + lane; row < min(chunk + kChunkRows, rows); row += lanes) {
          float v[8];
          unpack(load8(source + source_row(image, row) * stride), v);
#pragma unroll
          for (int j = 0; j < 8; ++j) sum[j] += v[j], square[j] = fmaf(v[j], v[j], square[j]);
        }
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        shared[(j * 2) * kThreads + threadIdx.x] = sum[j];
        shared[(j * 2 + 1) * kThreads + threadIdx.x] = square[j];
      }
    }
    __syncthreads();
    for (int j = threadIdx.x; j < width * 16; j += kThreads) {
      int thread = j / 16, part = j % 16;
      float total = 0.0f;
      for (int l = 0; l < lanes; ++l) total += shared[part * kThreads + l * width + thread];
      out[(part & 1) * channels + (base + thread) * 8 + part / 2] = total;
    }
    __syncthreads();
  }
}

struct StatisticsParams {
  uint64_t added;          // f32 [images][added_chunks][2][channels], from group_norm_sums
  uint64_t removed;        // likewise: what these rows were when `recorded` was taken; 0: live statistics
  Address recorded;        // f32 [images][groups][2] mean, biased variance; read where `removed` is set
  Address statistics;      // f32 [images][groups][2] mean, biased variance: written; absent: not
  Address affine;          // f32 [images][2][channels] scale, shift: written; absent: not
  uint64_t gamma, beta;    // f16 [channels]; unused without `affine`
  uint64_t slots;
  Count rows;              // of one image, over which the statistics are
  int32_t channels, groups, added_chunks, removed_chunks;
  float epsilon;
  int32_t reserved;
};
static_assert(sizeof(StatisticsParams) == 128);

// Sum over the block in a fixed order: lane tree, then warps in turn.
FISEC_DEVICE double block_sum(double v, double* shared) {
  shared[threadIdx.x] = v;
  __syncthreads();
  for (int half = 64; half; half /= 2) {
    if (int(threadIdx.x) < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    __syncthreads();
  }
  double total = shared[0];
  __syncthreads();
  return total;
}

FISEC_DEVICE void add_chunks(uint64_t partial, int chunks, int image, int channels, int first, int width, double sign, double& sum, double& square) {
  const float* at = reinterpret_cast<const float*>(partial) + size_t(image) * chunks * 2 * channels + first;
  for (int j = threadIdx.x; j < chunks * width; j += 128) {
    const float* from = at + size_t(j / width) * 2 * channels + j % width;
    sum += sign * from[0], square += sign * from[channels];
  }
}

// 128 threads; grid (groups, images). f64 here: the variance is a difference of two large numbers.
extern "C" __global__ void __launch_bounds__(128) group_norm_statistics(const __grid_constant__ StatisticsParams p) {
  __shared__ double shared[128];
  let_next_kernel_start();
  wait_for_previous_kernel();
  const uint64_t* slots = reinterpret_cast<const uint64_t*>(p.slots);
  int group = blockIdx.x, image = blockIdx.y, width = p.channels / p.groups, first = group * width;
  double sum = 0, square = 0, count = double(resolve(p.rows)) * width;
  add_chunks(p.added, p.added_chunks, image, p.channels, first, width, 1.0, sum, square);
  if (p.removed) add_chunks(p.removed, p.removed_chunks, image, p.channels, first, width, -1.0, sum, square);
  sum = block_sum(sum, shared);
  square = block_sum(square, shared);
  if (p.removed) {
    const float* recorded = resolve<const float>(p.recorded, slots) + (size_t(image) * p.groups + group) * 2;
    double mean = recorded[0], variance = recorded[1];
    sum += mean * count;
    square += (variance + mean * mean) * count;
  }
  double mean = sum / count, variance = fmax(square / count - mean * mean, 0.0);
  float* statistics = resolve<float>(p.statistics, slots);
  if (statistics && threadIdx.x == 0) {
    statistics[(size_t(image) * p.groups + group) * 2] = float(mean);
    statistics[(size_t(image) * p.groups + group) * 2 + 1] = float(variance);
  }
  if (!present(p.affine)) return;
  double rstd = 1.0 / sqrt(variance + p.epsilon);
  float* affine = resolve<float>(p.affine, slots) + size_t(image) * 2 * p.channels + first;
  const __half* gamma = reinterpret_cast<const __half*>(p.gamma) + first;
  const __half* beta = reinterpret_cast<const __half*>(p.beta) + first;
  for (int c = threadIdx.x; c < width; c += 128) {
    double scale = rstd * double(__half2float(gamma[c]));
    affine[c] = float(scale);
    affine[p.channels + c] = float(double(__half2float(beta[c])) - mean * scale);
  }
}
