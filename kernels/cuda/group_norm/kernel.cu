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

constexpr int kWholeThreads = 512, kMostGroups = 16;

struct NormParams {
  Address source[2];          // f16; the second one's channels follow the first one's
  Address output[2];          // f16, likewise
  Address statistics;         // f32 [images][groups][2] mean, biased variance: written; absent: not
  Address affine;             // f32 [images][2][channels] scale, shift: written; absent: not
  uint64_t gamma, beta;       // f16 [channels]
  uint64_t slots;
  int32_t channels[2];        // multiples of 8
  int32_t source_stride[2], output_stride[2];
  int32_t rows, groups;       // rows of one image
  int32_t slice, flags;       // channels of a block: whole groups, whole vectors, at most kMostGroups groups
  float epsilon;
  int32_t reserved;
};
static_assert(sizeof(NormParams) == 168);
enum NormFlags { kSiluAfter = 1 };

// What a cluster's blocks tell each other, and what they make of it.
struct GroupSums {
  double sum, square;
};
static_assert(sizeof(GroupSums) == 16);

// A block's rows and slice of channels. A thread keeps to one vector of eight channels.
struct Slice {
  const __half* source;
  __half* output;
  int vectors, vector, lane, lanes, first_channel, begin, end;
  size_t source_stride, output_stride;
  bool works;

  FISEC_DEVICE Slice(const NormParams& p) {
    const uint64_t* slots = reinterpret_cast<const uint64_t*>(p.slots);
    vectors = p.slice / 8, lanes = kWholeThreads / vectors;
    vector = threadIdx.x % vectors, lane = threadIdx.x / vectors;
    works = lane < lanes;
    first_channel = blockIdx.x * p.slice;
    int channel = first_channel + vector * 8, image = blockIdx.y;
    bool late = channel >= p.channels[0];
    source_stride = p.source_stride[late], output_stride = p.output_stride[late];
    source = resolve<const __half>(p.source[late], slots) + size_t(image) * p.rows * source_stride + channel - (late ? p.channels[0] : 0);
    output = resolve<__half>(p.output[late], slots) + size_t(image) * p.rows * output_stride + channel - (late ? p.channels[0] : 0);
    begin = int(int64_t(p.rows) * blockIdx.z / gridDim.z), end = int(int64_t(p.rows) * (blockIdx.z + 1) / gridDim.z);
  }

  // Sums and squares of each channel of the slice, over the block's rows: [2][slice].
  FISEC_DEVICE void sums(float* shared, float* totals) const {
    float sum[8] = {}, square[8] = {};
    if (works) {
#pragma unroll 8  // loads in flight
      for (int row = begin + lane; row < end; row += lanes) {
        float v[8];
        unpack(load8(source + row * source_stride), v);
#pragma unroll
        for (int j = 0; j < 8; ++j) sum[j] += v[j], square[j] = fmaf(v[j], v[j], square[j]);
      }
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) shared[j * kWholeThreads + threadIdx.x] = sum[j], shared[(j + 8) * kWholeThreads + threadIdx.x] = square[j];
    __syncthreads();
    // a warp adds what its lanes have of one channel
    for (int j = threadIdx.x / 32; j < vectors * 16; j += kWholeThreads / 32) {
      int part = j / vectors, of = j - part * vectors;
      float total = 0.0f;
      for (int l = threadIdx.x % 32; l < lanes; l += 32) total += shared[part * kWholeThreads + l * vectors + of];
      for (int l = 16; l; l /= 2) total += shuffle_xor(total, l);
      if (threadIdx.x % 32 == 0) totals[(part / 8) * vectors * 8 + of * 8 + part % 8] = total;
    }
    __syncthreads();
  }

  FISEC_DEVICE void apply(const float* scale, const float* shift, bool with_silu) const {
    if (!works) return;
#pragma unroll 4  // loads in flight
    for (int row = begin + lane; row < end; row += lanes) {
      float v[8];
      unpack(load8(source + row * source_stride), v);
      apply_affine(v, scale + vector * 8, shift + vector * 8, with_silu);
      store8(output + row * output_stride, pack(v));
    }
  }
};

// Statistics and norm at once: a cluster of gridDim.z blocks shares an image's rows of one slice of channels. Grid (slices, images, blocks), 512
// threads, clusters along z.
extern "C" __global__ void __launch_bounds__(kWholeThreads, 2) group_norm_whole(const __grid_constant__ NormParams p) {
  DYNAMIC_SHARED(memory);  // [16][512] f32, then 2 * slice, then the sums of the groups
  let_next_kernel_start();
  wait_for_previous_kernel();
  float *values = reinterpret_cast<float*>(memory), *totals = values + 16 * kWholeThreads;
  GroupSums* groups = reinterpret_cast<GroupSums*>(totals + 2 * p.slice);
  Slice slice(p);
  slice.sums(values, totals);
  int channels = p.channels[0] + p.channels[1], width = channels / p.groups, count = p.slice / width;
  if (int(threadIdx.x) < count) {
    GroupSums mine = {};
    for (int c = threadIdx.x * width; c < int(threadIdx.x + 1) * width; ++c) mine.sum += totals[c], mine.square += totals[p.slice + c];
    groups[threadIdx.x] = mine;
  }
  cluster_barrier();
  float *scale = values, *shift = values + p.slice;
  int image = blockIdx.y;
  for (int c = threadIdx.x; c < p.slice; c += kWholeThreads) {
    int group = c / width, channel = slice.first_channel + c;
    GroupSums all = {};
#pragma unroll 8  // loads in flight
    for (int rank = 0; rank < int(gridDim.z); ++rank) {
      float4 bits = load_from_block(reinterpret_cast<const float*>(groups + group), rank);
      const GroupSums& part = reinterpret_cast<const GroupSums&>(bits);
      all.sum += part.sum, all.square += part.square;
    }
    double n = double(p.rows) * width, mean = all.sum / n, variance = fmax(all.square / n - mean * mean, 0.0);
    double by = 1.0 / sqrt(variance + p.epsilon) * double(__half2float(reinterpret_cast<const __half*>(p.gamma)[channel]));
    scale[c] = float(by), shift[c] = float(double(__half2float(reinterpret_cast<const __half*>(p.beta)[channel])) - mean * by);
    if (blockIdx.z) continue;
    const uint64_t* slots = reinterpret_cast<const uint64_t*>(p.slots);
    if (float* affine = resolve<float>(p.affine, slots)) {
      affine[size_t(image) * 2 * channels + channel] = scale[c];
      affine[(size_t(image) * 2 + 1) * channels + channel] = shift[c];
    }
    float* statistics = resolve<float>(p.statistics, slots);
    if (statistics && c % width == 0) {
      float* at = statistics + (size_t(image) * p.groups + channel / width) * 2;
      at[0] = float(mean), at[1] = float(variance);
    }
  }
  cluster_barrier();  // nobody leaves while its sums are being read
  slice.apply(scale, shift, p.flags & kSiluAfter);
}
