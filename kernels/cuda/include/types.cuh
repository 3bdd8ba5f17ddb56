// Plain-old-data shared by every kernel and its launcher: the host writes these structs byte for byte.
// All are 8-byte aligned and have no hidden padding.
#pragma once
#include <cuda_fp16.h>
#include <math.h>
#include <stdint.h>

// Where a tensor is. slot 0: `base` is its address; all zero: there is none.
// slot s > 0: it is `base` bytes into the slot whose address this step is slots[s - 1].
struct Address {
  uint64_t base;
  int32_t slot;
  int32_t reserved;
};
static_assert(sizeof(Address) == 16);

// A row count that only the mask decides: read from device memory, or `fixed` where `device` is 0.
struct Count {
  uint64_t device;  // const int32_t*
  int32_t fixed;
  int32_t reserved;
};
static_assert(sizeof(Count) == 16);

// How row i of image n is found in a buffer: n * image_rows + (map ? map[i] : i).
// image_rows 0 means "as many as there are live rows": the buffer is packed; -1 means that all images are in the same place.
struct Rows {
  uint64_t map;  // const int32_t*, or 0
  Count image_rows;
};
static_assert(sizeof(Rows) == 24);

#ifdef __CUDACC__
#define FISEC_DEVICE __device__ __forceinline__
#else
#define FISEC_DEVICE inline
#endif

FISEC_DEVICE bool present(const Address& a) { return a.slot || a.base; }

template <typename T>
FISEC_DEVICE T* resolve(const Address& a, const uint64_t* slots) {
  return reinterpret_cast<T*>(a.slot ? slots[a.slot - 1] + a.base : a.base);
}

FISEC_DEVICE int resolve(const Count& c) {
  return c.device ? *reinterpret_cast<const int32_t*>(c.device) : c.fixed;
}

struct RowIndex {
  const int32_t* map;
  int image_rows;
  FISEC_DEVICE size_t operator()(int image, int row) const {
    return size_t(image) * image_rows + (map ? map[row] : row);
  }
};

// Row `r` of all images' live rows, as an image and a row of it. Images are few: subtracting beats dividing.
struct ImageRow {
  int image, row;
  FISEC_DEVICE ImageRow(int r, int live) : image(0), row(r) {
    while (row >= live) row -= live, ++image;
  }
};

FISEC_DEVICE RowIndex resolve(const Rows& r, int live) {
  int image_rows = resolve(r.image_rows);
  return {reinterpret_cast<const int32_t*>(r.map), image_rows < 0 ? 0 : image_rows ? image_rows : live};
}
