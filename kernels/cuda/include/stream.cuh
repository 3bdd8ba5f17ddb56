// Work dealt out evenly among the blocks that a GPU runs at once. Tiles have `depth` units each (tiles of K, of keys); all units lie in one line,
// cut into gridDim.x equal shares, whatever tiles they cut through. A tile belongs to the block that has its first unit; others
// leave their parts in memory for it.
#pragma once
#include "wgmma.cuh"

constexpr int kMostBlocks = 1024;
// Raised while a block's part waits to be taken; all low between launches. One per module: launches of a module follow one another.
__device__ int part_flags[kMostBlocks];

// Units [begin, end) of a tile.
struct Segment {
  int tile, begin, end;
};

class Share {
 public:
  // Ranks run against the block index: a tile's owner waits for blocks that were started before it.
  FISEC_DEVICE Share(int tiles, int depth_) : depth(depth_), units(tiles * depth_), rank(gridDim.x - 1 - blockIdx.x), at(first(rank)), last(first(rank + 1)) {}

  FISEC_DEVICE bool next(Segment& segment) {
    if (at >= last) return false;
    segment.tile = at / depth;
    segment.begin = at - segment.tile * depth;
    segment.end = min(depth, segment.begin + last - at);
    at += segment.end - segment.begin;
    return true;
  }
  FISEC_DEVICE bool owns(const Segment& s) const { return s.begin == 0; }
  FISEC_DEVICE bool whole(const Segment& s) const { return s.begin == 0 && s.end == depth; }

  // For an owned segment: take(rank) for every block that has a part of its tile, in their order. Parts of one block: one at most.
  template <typename Take>
  FISEC_DEVICE void others(const Segment& s, Take take) const {
    int end = (s.tile + 1) * depth;
    for (int r = rank + 1, from = first(r); from < end; ++r) {
      int to = first(r + 1);
      if (to > from) take(r);
      from = to;
    }
  }
  const int depth, units, rank;

 private:
  FISEC_DEVICE int first(int r) const { return int(int64_t(units) * r / gridDim.x); }
  int at, last;
};

// One thread's float4s of a part: COUNT of them, THREADS apart, so that a warp's accesses are one run.
template <int COUNT, int THREADS>
struct Part {
  float4* at;
  FISEC_DEVICE Part(uint64_t memory, int rank) : at(reinterpret_cast<float4*>(memory) + size_t(rank) * COUNT * THREADS + threadIdx.x) {}
  FISEC_DEVICE void store(int j, const float* v) const { at[j * THREADS] = make_float4(v[0], v[1], v[2], v[3]); }
  FISEC_DEVICE void load(int j, float (&v)[4]) const {
    float4 f = load_published(at + j * THREADS);
    v[0] = f.x, v[1] = f.y, v[2] = f.z, v[3] = f.w;
  }
  // After the stores, by the first THREADS threads of the block.
  FISEC_DEVICE static void publish(int rank) {
    publish_to_blocks();
    sync_first<THREADS>();
    if (threadIdx.x == 0) raise_flag(part_flags + rank);
  }
  // Before the loads, by the same threads.
  FISEC_DEVICE static void await(int rank) {
    if (threadIdx.x == 0) await_flag(part_flags + rank);
    sync_first<THREADS>();
  }
};
