// The ring of stages of both warpgroup convolutions: one warpgroup fills it, the others multiply what is in it.
#pragma once
#include "conv.cuh"
#include "wgmma.cuh"

// Place in a ring of STAGES, from any stage on: of the stage's barrier the phase that is next.
template <int STAGES>
struct Ring {
  int stage, first, parity;
  FISEC_DEVICE explicit Ring(int begin = 0) : stage(begin), first(begin), parity(0) {}
  FISEC_DEVICE void next() {
    if (++stage == STAGES) stage = 0;
    if (stage == first) parity ^= 1;
  }
};

// STAGES tiles of K: rows x 64 of the source, then 160 columns x 64 of the weights. Loops stay loops: what is unrolled has to be fetched by every launch.
template <int BM, int BN, int STAGES, int MULTIPLY>
struct Stages {
  static constexpr int kTileA = BM * kLine, kStage = kTileA + BN * kLine, kFetch = 128;
  unsigned char* tiles;
  uint64_t *full, *empty;
  FISEC_DEVICE explicit Stages(unsigned char* memory)
      : tiles(memory), full(reinterpret_cast<uint64_t*>(memory + STAGES * kStage)), empty(full + STAGES) {}
  FISEC_DEVICE unsigned char* behind() const { return tiles + STAGES * kStage + 128; }

  FISEC_DEVICE void init() const {
    if (threadIdx.x) return;
#pragma unroll 1
    for (int s = 0; s < STAGES; ++s) {
      barrier_init(full + s, kFetch + 1);       // every fetching thread, and the announcement of the weights' bytes
      barrier_init(empty + s, MULTIPLY / 32);  // every multiplying warp
    }
    publish_to_wgmma();  // the copy engine too
  }

  // By one thread. Weights are stored swizzled, so a tile is one run of memory for the copy engine. Columns past cout stay undefined and unused.
  FISEC_DEVICE void fetch_weights(const ConvParams& p, int stage, int k_tile, int first_column) const {
    int bytes = min(BN, p.cout - first_column) * kLine;
    barrier_expect(full + stage, bytes);
    const unsigned char* from = reinterpret_cast<const unsigned char*>(p.weights) + (size_t(k_tile) * p.cout + first_column) * kLine;
    bulk_copy(tiles + stage * kStage + kTileA, from, bytes, full + stage);
  }

  // The products of `count` stages: this warpgroup's 64 rows.
  FISEC_DEVICE void multiply(int count, Ring<STAGES>& ring, float (&sums)[BN / 2]) const {
    int lane = threadIdx.x % 32, group = uniform(threadIdx.x / 128);
    uint64_t first = wgmma_tile(tiles);
#pragma unroll
    for (int j = 0; j < BN / 2; ++j) sums[j] = 0.0f;
    int before = 0;
#pragma unroll 1
    for (int k = 0; k < count; ++k, ring.next()) {
      barrier_wait(full + ring.stage, ring.parity);
      publish_to_wgmma();
      uint64_t tile = wgmma_from(first, ring.stage * (BM + BN), 0);  // BM lines of rows, BN of weights
      wgmma_hold(sums);
      wgmma_begin();
#pragma unroll
      for (int step = 0; step < kTileK; step += 16)
        wgmma160(sums, wgmma_from(tile, group * 64, step), wgmma_from(tile, BM, step));
      wgmma_commit();
      wgmma_wait<1>();  // the products of the turn before: their stage may be refilled
      wgmma_hold(sums);
      if (lane == 0 && k > 0) barrier_arrive(empty + before);
      before = ring.stage;
    }
    wgmma_wait<0>();
    wgmma_hold(sums);
    if (lane == 0) barrier_arrive(empty + before);
  }
};
