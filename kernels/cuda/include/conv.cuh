// What both sparse convolution kernels (mma.sync and wgmma) share: parameters and the input gather.
#pragma once
#include "epilogue.cuh"
#include "ptx.cuh"

struct ConvParams {
  Address source[2];       // f16 [images * source_rows, source_stride]; the second one is concatenated behind the first
  int32_t channels[2];     // of each source; multiples of 8; channels[1] = 0: one source
  int32_t source_stride[2];
  uint64_t table;          // i32 [live, taps]: source row of every tap, -1 = zero; 0: row i reads source row i
  Rows source_rows;        // rows of one image in the sources (map unused)
  Count live;              // output rows of one image
  uint64_t weights;        // f16 [k_tiles][cout][64], swizzled: README.md
  uint64_t blocks;         // i32: which block of weights every 64 rows of an image take; 0: there is one
  uint64_t workspace;      // f32 [splits][images * live][cout], used where splits > 1
  uint64_t slots;          // const uint64_t*: this step's slot addresses
  int32_t images;
  int32_t taps;            // 9, 1, ...
  int32_t cout;            // multiple of 8 (16 with kGeglu)
  int32_t splits;          // thread blocks along K = gridDim.z
  Epilogue epilogue;
};
static_assert(sizeof(ConvParams) == 408);

constexpr int kTileK = 64;  // one 128-byte line of f16: the swizzle's span
constexpr int kLine = kTileK * 2;

// 16-byte chunk `chunk` of line `row`, XOR-swizzled so that eight lines of a column touch all 32 banks.
FISEC_DEVICE int swizzled(int row, int chunk) { return row * kLine + ((chunk ^ (row & 7)) << 4); }

// COUNT rows as swizzled 128-byte lines, zeros where there is no row: at(r) is row r's head, or null.
template <int COUNT, int THREADS, typename At>
FISEC_DEVICE void load_lines(unsigned char* tile, const __half* anywhere, At at) {
  int thread = threadIdx.x % THREADS, chunk = thread % 8;
  tile += swizzled(thread / 8, chunk);  // rows of one thread are a multiple of eight apart: the same swizzle
#pragma unroll
  for (int j = 0; j < COUNT / (THREADS / 8); ++j) {
    const __half* row = at(thread / 8 + j * (THREADS / 8));
    cp_async16(tile + j * (THREADS / 8) * kLine, row ? row + chunk * 8 : anywhere, row ? 16 : 0);
  }
}

FISEC_DEVICE int tiles_of(int channels) { return (channels + kTileK - 1) / kTileK; }
FISEC_DEVICE int k_tiles(const ConvParams& p) { return p.taps * (tiles_of(p.channels[0]) + tiles_of(p.channels[1])); }

// The tile of K at which the weights of a tile of rows begin. Blocks of weights follow one another; no tile of rows has two of them.
constexpr int kBlockRows = 64;
FISEC_DEVICE int first_k_tile(const ConvParams& p, int live, int first_row) {
  const int32_t* blocks = reinterpret_cast<const int32_t*>(p.blocks);
  return blocks ? blocks[ImageRow(first_row, live).row / kBlockRows] * k_tiles(p) : 0;
}

// The 128 threads that gather take 16 rows at once, eight lanes a row.
constexpr int kGatherRows = 16;

// Source rows of a tile of BM outputs into shared memory, [taps][16][BM / 16]: row r is entry r / 16 of line r % 16, so that a thread's lie side
// by side. Rows past the last output read nothing (-1).
template <int BM, int THREADS>
FISEC_DEVICE void load_row_table(const ConvParams& p, int live, int first_row, int32_t* rows) {
  const int32_t* table = reinterpret_cast<const int32_t*>(p.table);
  int source_rows = resolve(p.source_rows, live).image_rows;
  for (int j = threadIdx.x % THREADS; j < BM * p.taps; j += THREADS) {
    int r = j / p.taps, tap = j - r * p.taps;
    int source = -1;
    if (first_row + r < p.images * live) {
      ImageRow at(first_row + r, live);
      source = table ? table[at.row * p.taps + tap] : at.row;
      if (source >= 0) source += at.image * source_rows;
    }
    rows[tap * BM + r % kGatherRows * (BM / kGatherRows) + r / kGatherRows] = source;
  }
}

// Walks the K tiles of one thread block in order: 64 channels at a time, source by source; of those, all taps one after another,
// because neighbouring taps read the same rows.
struct Walk {
  int tap, taps, tile, tiles0;
  FISEC_DEVICE Walk(const ConvParams& p, int k_tile) {
    taps = p.taps;
    tiles0 = tiles_of(p.channels[0]);
    tile = k_tile / taps;
    tap = k_tile - tile * taps;
  }
  FISEC_DEVICE void next() {
    if (++tap == taps) tap = 0, ++tile;
  }
};

struct Sources {
  const __half *first, *second;
};

// Starts the copies of BM gathered lines of 64 channels. Missing rows and channels become zeros.
template <int BM>
FISEC_DEVICE void gather_tile(const ConvParams& p, const Sources& source, const Walk& walk, const int32_t* rows, unsigned char* tile) {
  constexpr int kMine = BM / kGatherRows;
  bool which = walk.tile >= walk.tiles0;
  int thread = threadIdx.x % 128, chunk = thread % 8;
  int channel = (walk.tile - (which ? walk.tiles0 : 0)) * kTileK + chunk * 8;
  bool inside = channel < p.channels[which];
  const char* base = reinterpret_cast<const char*>((which ? source.second : source.first) + (inside ? channel : 0));
  uint32_t stride = p.source_stride[which] * 2;
  // all rows first: a copy lets no later load pass it, and each would wait for the one before
  int mine[kMine];
  const int4* line = reinterpret_cast<const int4*>(rows + walk.tap * BM + thread / 8 * kMine);
#pragma unroll
  for (int j = 0; j < kMine; j += 4) {
    int4 four = line[j / 4];
    mine[j] = four.x, mine[j + 1] = four.y, mine[j + 2] = four.z, mine[j + 3] = four.w;
  }
  tile += swizzled(thread / 8, chunk);  // rows of one thread are a multiple of eight apart: the same swizzle
#pragma unroll
  for (int j = 0; j < kMine; ++j)
    cp_async16(tile + j * kGatherRows * kLine, base + uint64_t(uint32_t(max(mine[j], 0))) * stride, inside && mine[j] >= 0 ? 16 : 0);
}

// The layer norm of row t / 2 for thread t of a tile: two lanes ask for a row.
FISEC_DEVICE Finish::RowNorm row_norm(const ConvParams& p, int live, int first_row) {
  return Finish::norm_of<2>(p.epilogue, min(first_row + int(threadIdx.x) / 2, p.images * live - 1));
}

// This block's partial sums, one plane of the workspace.
template <int BM, int BN, int THREADS>
FISEC_DEVICE void store_partial(const ConvParams& p, int total, int first_row, int first_column, const float* sums, int pitch) {
  float* plane = reinterpret_cast<float*>(p.workspace) + size_t(blockIdx.z) * total * p.cout;
  for (int j = threadIdx.x; j < BM * (BN / 4); j += THREADS) {
    int r = j / (BN / 4), c = (j - r * (BN / 4)) * 4;
    if (first_row + r >= total || first_column + c >= p.cout) continue;
    *reinterpret_cast<float4*>(plane + size_t(first_row + r) * p.cout + first_column + c) = *reinterpret_cast<const float4*>(sums + r * pitch + c);
  }
}

// The rows of a complete tile in shared memory, WIDTH columns at a time. One short loop: the code must stay in the instruction cache.
template <int BM, int BN, int THREADS, int WIDTH>
FISEC_DEVICE void finish_rows(const ConvParams& p, const Finish& finish, int live, int first_row, int first_column, const float* sums, int pitch) {
  constexpr int kPerRow = BN / WIDTH;
  int rows = min(BM, p.images * live - first_row), columns = min(BN, p.cout - first_column);
  Where where(p.epilogue, live);
#pragma unroll 1
  for (int j = threadIdx.x % THREADS; j < rows * kPerRow; j += THREADS) {
    int r = j / kPerRow, c = (j - r * kPerRow) * WIDTH;
    if (c >= columns) continue;
    ImageRow at(first_row + r, live);
    Place place = where.place(at.image, at.row);
    Finish::Added added = finish.fetch<WIDTH == 16>(place, first_column + c);
    float v[8], gate[8];
    load8(sums + r * pitch + c, v);
    if (WIDTH == 16) load8(sums + r * pitch + c + 8, gate);
    finish.apply<WIDTH == 16>(added, place, first_column + c, v, gate);
  }
}

// sums: [BM][pitch] f32 in shared memory, this block's part of the tile, complete. Every thread of the block calls it.
// One split goes through the epilogue, several leave their parts in the workspace.
template <int BM, int BN, int THREADS>
FISEC_DEVICE void store_tile(const ConvParams& p, int live, int first_row, int first_column, const float* sums, int pitch) {
  if (p.splits > 1) return store_partial<BM, BN, THREADS>(p, p.images * live, first_row, first_column, sums, pitch);
  Bases bases(p.epilogue, reinterpret_cast<const uint64_t*>(p.slots));
  Finish finish(p.epilogue, bases);
  if (finish.gated()) finish_rows<BM, BN, THREADS, 16>(p, finish, live, first_row, first_column, sums, pitch);
  else finish_rows<BM, BN, THREADS, 8>(p, finish, live, first_row, first_column, sums, pitch);
}
