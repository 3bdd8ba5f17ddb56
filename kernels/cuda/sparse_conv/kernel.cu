// Convolution over a list of pixels, as an implicit matrix product:
//   out[r, n] = sum over taps t and channels c of  source[table[r][t]][c] * weights[t][c][n]
// Stride 1, stride 2, after-upsample, 1x1, dense and linear layers differ in the table alone. README.md has the contract.
#include "conv.cuh"

// BM x BN outputs per block, WM x WN per warp, STAGES tiles of K in flight.
template <int BM, int BN, int WM, int WN, int STAGES>
struct Conv {
  static constexpr int kWarpsN = BN / WN;
  static constexpr int kThreads = 32 * (BM / WM) * kWarpsN;
  static constexpr int kTileA = BM * kLine, kTileB = BN * kLine, kStage = kTileA + kTileB;
  static constexpr int kPitch = BN + 8;  // of the f32 staging: 8 words apart, so float2 stores of 8 rows miss each other's banks
  static constexpr int MF = WM / 16, NF = WN / 8;
  static_assert(BM * kPitch * 4 <= STAGES * kStage, "the staged tile reuses the pipeline's memory");
  static_assert(kThreads == 128 && WN % 16 == 0, "who gathers; whole ldmatrix");

  __device__ static void load_stage(const ConvParams& p, const Sources& source, const Walk& walk, int k_tile, int first_column,
                                    const int32_t* rows, unsigned char* stage, bool gathered, bool weights) {
    if (gathered) gather_tile<BM>(p, source, walk, rows, stage);
    if (!weights) return;
    // weights are stored swizzled, so a tile is one run of lines
    const unsigned char* lines = reinterpret_cast<const unsigned char*>(p.weights) + (size_t(k_tile) * p.cout + first_column) * kLine;
    int bytes = min(BN, p.cout - first_column) * kLine;
    for (int j = threadIdx.x * 16; j < kTileB; j += kThreads * 16)
      cp_async16(stage + kTileA + j, lines + (j < bytes ? j : 0), j < bytes ? 16 : 0);
  }

  __device__ static void multiply(const unsigned char* stage, int warp_m, int warp_n, int lane, float (&sums)[MF][NF][4]) {
#pragma unroll
    for (int k = 0; k < kTileK / 16; ++k) {
      uint32_t a[MF][4];
#pragma unroll
      for (int m = 0; m < MF; ++m) ldmatrix4(a[m], stage + swizzled(warp_m + m * 16 + lane % 16, k * 2 + lane / 16));
#pragma unroll
      for (int n = 0; n < NF; n += 2) {
        uint32_t b[4];
        ldmatrix4(b, stage + kTileA + swizzled(warp_n + n * 8 + (lane & 7) + (lane >> 4) * 8, k * 2 + ((lane >> 3) & 1)));
#pragma unroll
        for (int m = 0; m < MF; ++m) {
          mma16816(sums[m][n], a[m], b[0], b[1]);
          mma16816(sums[m][n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }

  __device__ static void run(const ConvParams& p) {
    DYNAMIC_SHARED(memory);
    let_next_kernel_start();
    int live = resolve(p.live), first_row = blockIdx.y * BM, first_column = blockIdx.x * BN;
    if (first_row >= live * p.images) return wait_for_previous_kernel();

    int32_t* rows = reinterpret_cast<int32_t*>(memory + STAGES * kStage);
    int total = k_tiles(p), weights = first_k_tile(p, live, first_row);
    int begin = int(int64_t(total) * blockIdx.z / p.splits), end = int(int64_t(total) * (blockIdx.z + 1) / p.splits);
    const uint64_t* slots = reinterpret_cast<const uint64_t*>(p.slots);
    Walk walk(p, begin);
    // weights and tables do not depend on the kernel before this one: fetch them while it drains
    for (int s = 0; s < STAGES - 1; ++s)
      if (begin + s < end) load_stage(p, Sources{}, walk, weights + begin + s, first_column, rows, memory + s * kStage, false, true);
    load_row_table<BM, kThreads>(p, live, first_row, rows);
    wait_for_previous_kernel();
    Sources source = {resolve<const __half>(p.source[0], slots), resolve<const __half>(p.source[1], slots)};
    __syncthreads();
    for (int s = 0; s < STAGES - 1; ++s) {
      if (begin + s < end) load_stage(p, source, walk, weights + begin + s, first_column, rows, memory + s * kStage, true, false), walk.next();
      cp_async_commit();
    }

    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int warp_m = warp / kWarpsN * WM, warp_n = warp % kWarpsN * WN;
    float sums[MF][NF][4] = {};
    for (int k = begin, s = 0; k < end; ++k) {
      cp_async_wait<STAGES - 2>();
      __syncthreads();  // stage s has arrived for all, and all have left the stage that is refilled now
      int ahead = k + STAGES - 1, refill = s == 0 ? STAGES - 1 : s - 1;
      if (ahead < end) load_stage(p, source, walk, weights + ahead, first_column, rows, memory + refill * kStage, true, true), walk.next();
      cp_async_commit();
      multiply(memory + s * kStage, warp_m, warp_n, lane, sums);
      s = s == STAGES - 1 ? 0 : s + 1;
    }

    cp_async_wait<0>();
    __syncthreads();
    float* staged = reinterpret_cast<float*>(memory);
#pragma unroll
    for (int m = 0; m < MF; ++m)
#pragma unroll
      for (int n = 0; n < NF; ++n) {
        float* at = staged + (warp_m + m * 16 + lane / 4) * kPitch + warp_n + n * 8 + lane % 4 * 2;
        *reinterpret_cast<float2*>(at) = make_float2(sums[m][n][0], sums[m][n][1]);
        *reinterpret_cast<float2*>(at + 8 * kPitch) = make_float2(sums[m][n][2], sums[m][n][3]);
      }
    __syncthreads();
    store_tile<BM, BN, kThreads>(p, live, first_row, first_column, staged, kPitch);
  }
};

#define KERNEL(BM, BN, WM, WN, STAGES, BLOCKS)                                                      \
  extern "C" __global__ void __launch_bounds__(Conv<BM, BN, WM, WN, STAGES>::kThreads, BLOCKS)      \
      sparse_conv_##BM##x##BN(const __grid_constant__ ConvParams p) {                               \
    Conv<BM, BN, WM, WN, STAGES>::run(p);                                                           \
  }

// 160 divides 320, 640, 1280 and their GEGLU widths: no ragged column tile in any Stable Diffusion U-Net.
KERNEL(128, 160, 64, 80, 3, 2)
KERNEL(64, 160, 32, 80, 4, 2)
KERNEL(128, 128, 64, 64, 3, 2)
KERNEL(64, 64, 32, 32, 4, 3)

// Adds the planes in their order, AT_ONCE of them on their way. One copy of the code: few blocks run it often enough to pay for more.
template <int AT_ONCE>
FISEC_DEVICE void add_planes(const float* partial, size_t plane, int planes, float (&v)[8]) {
#pragma unroll 1
  for (int first = 0; first < planes; first += AT_ONCE, partial += AT_ONCE * plane) {
    float add[AT_ONCE][8];
#pragma unroll
    for (int s = 0; s < AT_ONCE; ++s)
      if (first + s < planes) load8(partial + s * plane, add[s]);
#pragma unroll
    for (int s = 0; s < AT_ONCE; ++s)
      if (first + s < planes)
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] += add[s][i];
  }
}

// WIDTH columns of a row after another, their parts added in order, so that equal inputs give equal bits. Where a row goes does not depend on the
// kernel before this one: that is worked out while it drains.
template <int WIDTH>
FISEC_DEVICE void reduce(const ConvParams& p) {
  int live = resolve(p.live), total = live * p.images, per_row = p.cout / WIDTH;
  size_t plane = size_t(total) * p.cout;
  Where where(p.epilogue, live);
  int j = blockIdx.x * 256 + threadIdx.x, r = j / per_row;
  Place place = {};
  auto look = [&]() {
    ImageRow at(min(r, total - 1), live);
    place = where.place(at.image, at.row);
  };
  look();
  wait_for_previous_kernel();
  Bases bases(p.epilogue, reinterpret_cast<const uint64_t*>(p.slots));
  Finish finish(p.epilogue, bases);
#pragma unroll 1
  while (j < total * per_row) {
    int c = (j - r * per_row) * WIDTH;
    const float* partial = reinterpret_cast<const float*>(p.workspace) + size_t(r) * p.cout + c;
    Finish::Added added = finish.fetch<WIDTH == 16>(place, c);
    float v[8] = {}, gate[8] = {};
    add_planes<64 / WIDTH>(partial, plane, p.splits, v);
    if (WIDTH == 16) add_planes<64 / WIDTH>(partial + 8, plane, p.splits, gate);
    finish.apply<WIDTH == 16>(added, place, c, v, gate);
    j += gridDim.x * 256, r = j / per_row;
    look();
  }
}

// Adds the splits of K and finishes. 256 threads, grid-stride.
template <int WIDTH>
FISEC_DEVICE void run_reduce(const ConvParams& p) {
  let_next_kernel_start();
  reduce<WIDTH>(p);
}
extern "C" __global__ void __launch_bounds__(256, 2) sparse_conv_reduce(const __grid_constant__ ConvParams p) { run_reduce<8>(p); }
extern "C" __global__ void __launch_bounds__(256) sparse_conv_reduce_gated(const __grid_constant__ ConvParams p) { run_reduce<16>(p); }
