// Tensor-core products. A warp's are computed when its last thread comes; a warpgroup's are noted when issued and computed when waited for.
#pragma once
#include "machine.h"
#ifdef __F16C__
#include <immintrin.h>
#endif

inline float half_bits(uint16_t bits) {
#ifdef __F16C__
  return _cvtsh_ss(bits);
#else
  return __half2float(__half(__half_raw{bits}));
#endif
}
inline float half_at(uint32_t pair, int which) { return half_bits(uint16_t(pair >> (16 * which))); }

struct MatrixRead { const void* row; uint32_t* r; };
template <bool TRANSPOSED>
void read_matrices(uint32_t (&r)[4], const void* row) {
  MatrixRead mine{row, r};
  emulate::meet_warp(&mine, [](void** all) {
    for (int lane = 0; lane < 32; ++lane)
      for (int matrix = 0; matrix < 4; ++matrix) {
        uint16_t pair[2];
        for (int j = 0; j < 2; ++j) {
          int line = TRANSPOSED ? lane % 4 * 2 + j : lane / 4, column = TRANSPOSED ? lane / 4 : lane % 4 * 2 + j;
          pair[j] = static_cast<const uint16_t*>(static_cast<MatrixRead*>(all[matrix * 8 + line])->row)[column];
        }
        memcpy(&static_cast<MatrixRead*>(all[lane])->r[matrix], pair, 4);
      }
  });
}
inline void ldmatrix4(uint32_t (&r)[4], const void* row) { read_matrices<false>(r, row); }
inline void ldmatrix4_transposed(uint32_t (&r)[4], const void* row) { read_matrices<true>(r, row); }

struct Product { float* d; const uint32_t* a; uint32_t b[2]; };
inline void mma16816(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  Product mine{d, a, {b0, b1}};
  emulate::meet_warp(&mine, [](void** all) {
    float a[16][16], b[16][8], sums[16][8] = {};
    for (int lane = 0; lane < 32; ++lane) {
      Product& t = *static_cast<Product*>(all[lane]);
      for (int j = 0; j < 4; ++j)
        for (int h = 0; h < 2; ++h) a[lane / 4 + j % 2 * 8][j / 2 * 8 + lane % 4 * 2 + h] = half_at(t.a[j], h);
      for (int j = 0; j < 2; ++j)
        for (int h = 0; h < 2; ++h) b[j * 8 + lane % 4 * 2 + h][lane / 4] = half_at(t.b[j], h);
    }
    for (int m = 0; m < 16; ++m)
      for (int k = 0; k < 16; ++k)
        for (int n = 0; n < 8; ++n) sums[m][n] += a[m][k] * b[k][n];
    for (int lane = 0; lane < 32; ++lane)
      for (int j = 0; j < 4; ++j) static_cast<Product*>(all[lane])->d[j] += sums[lane / 4 + j / 2 * 8][lane % 4 * 2 + j % 2];
  });
}

// A tile is its address; in the top byte its first column.
inline uint64_t wgmma_tile(const void* tile) { return reinterpret_cast<uint64_t>(tile); }
inline uint64_t wgmma_from(uint64_t tile, int line, int column) { return tile + line * 128 + (uint64_t(column) << 56); }
inline float swizzled_at(uint64_t tile, int line, int column) {
  const unsigned char* base = reinterpret_cast<const unsigned char*>(tile & 0xffffffffffffff);
  column += int(tile >> 56);
  uint16_t bits;
  memcpy(&bits, base + line * 128 + ((column / 8) ^ (line & 7)) * 16 + column % 8 * 2, 2);
  return half_bits(bits);
}
struct GroupProduct {
  float* d;
  uint64_t a, b;       // tiles; a is 0 where the left operand comes from registers
  uint32_t registers[4];
  int columns;
  bool add, transposed;
};
struct GroupProducts {
  std::vector<GroupProduct> open;
  std::deque<std::vector<GroupProduct>> committed;
};
inline GroupProducts group_products[emulate::kMostThreads];  // by thread
inline GroupProducts& my_products() { return group_products[emulate::current]; }
template <int COLUMNS>
void note_product(float* d, uint64_t a, uint64_t b, bool add) { my_products().open.push_back({d, a, b, {}, COLUMNS, add, false}); }
inline void wgmma160(float (&d)[80], uint64_t a, uint64_t b) { note_product<160>(d, a, b, true); }
template <int ADD>
void wgmma64(float (&d)[8][4], uint64_t a, uint64_t b) { note_product<64>(d[0], a, b, ADD); }
template <int ADD>
void wgmma128(float (&d)[16][4], uint64_t a, uint64_t b) { note_product<128>(d[0], a, b, ADD); }
inline void wgmma64(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b) {
  my_products().open.push_back({d[0], 0, b, {a[0], a[1], a[2], a[3]}, 64, true, true});
}
inline void wgmma_begin() {}
inline void wgmma_commit() { my_products().committed.push_back(std::exchange(my_products().open, {})); }

// One product of a warpgroup; all[t] is thread t's note of it. Thread t holds rows t/32*16 + t%32/4 (+8), columns 8n + t%4*2 (+1).
inline void multiply_group(GroupProduct* const (&all)[128]) {
  static float left[64][16], right[4][16][2 * 256];  // right: by t % 4, in the order in which such a thread holds its columns
  const GroupProduct& p = *all[0];
  for (int row = 0; row < 64; ++row)
    for (int k = 0; k < 16; ++k)
      left[row][k] = p.a ? swizzled_at(p.a, row, k)
                         : half_at(all[row / 16 * 32 + row % 8 * 4 + k % 8 / 2]->registers[row % 16 / 8 + k / 8 * 2], k % 2);
  for (int k = 0; k < 16; ++k)
    for (int column = 0; column < p.columns; ++column) {
      float value = p.transposed ? swizzled_at(p.b, k, column) : swizzled_at(p.b, column, k);
      float* at = &right[column % 8 / 2][k][column / 8 * 4 + column % 2];
      at[0] = at[2] = value;
    }
  for (int t = 0; t < 128; ++t) {
    float* d = all[t]->d;
    int count = p.columns / 2, row = t / 32 * 16 + t % 32 / 4;
    if (!p.add) std::fill(d, d + count, 0.0f);
    for (int k = 0; k < 16; ++k) {
      const float* b = right[t % 4][k];
      const float a[4] = {left[row][k], left[row][k], left[row + 8][k], left[row + 8][k]};
      for (int n = 0; n < count; n += 4)
        for (int j = 0; j < 4; ++j) d[n + j] += a[j] * b[n + j];
    }
  }
}
template <int PENDING>
void wgmma_wait() {
  GroupProducts& mine = my_products();
  int ready = int(mine.committed.size()) - PENDING;
  if (ready <= 0) return;
  emulate::meet(emulate::group_meeting[emulate::current / 128], 128, emulate::current % 128, &mine, [](void** all) {
    for (size_t group = 0; group + PENDING < static_cast<GroupProducts*>(all[0])->committed.size(); ++group)
      for (size_t j = 0; j < static_cast<GroupProducts*>(all[0])->committed[group].size(); ++j) {
        GroupProduct* notes[128];
        for (int t = 0; t < 128; ++t) notes[t] = &static_cast<GroupProducts*>(all[t])->committed[group][j];
        multiply_group(notes);
      }
  });
  mine.committed.erase(mine.committed.begin(), mine.committed.begin() + ready);
}
template <typename T>
void wgmma_hold(T&) {}
inline void publish_to_wgmma() {}
