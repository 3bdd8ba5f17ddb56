// The instructions that C++ has no word for. tools/gpu/emulate replaces this file's contents on a CPU.
#pragma once
#include "types.cuh"
#ifdef FISEC_EMULATE
#include "emulate.h"
#else

#define DYNAMIC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]

FISEC_DEVICE uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

// 16 bytes, global to shared; `bytes` 0 writes zeros and reads nothing.
FISEC_DEVICE void cp_async16(void* shared, const void* global, int bytes) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes) : "memory");
}
FISEC_DEVICE void cp_async16(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global) : "memory");
}
FISEC_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING>
FISEC_DEVICE void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory"); }

// Four 8x8 f16 matrices; lane l gives the address of row l % 8 of matrix l / 8.
FISEC_DEVICE void ldmatrix4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
FISEC_DEVICE void ldmatrix4_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

// d[16x8] += a[16x16] b[16x8], f16 in, f32 out.
FISEC_DEVICE void mma16816(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

FISEC_DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

FISEC_DEVICE float reciprocal_fast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// What is the same in all lanes of a warp, said so that the compiler knows.
FISEC_DEVICE int uniform(int v) { return __shfl_sync(0xffffffffu, v, 0); }
FISEC_DEVICE float shuffle_xor(float v, int lanes) { return __shfl_xor_sync(0xffffffffu, v, lanes); }
// The same among COUNT neighbouring lanes, which all call it; others of the warp may be elsewhere.
template <int COUNT>
FISEC_DEVICE float shuffle_xor_among(float v, int lanes) {
  uint32_t all = ((1u << COUNT) - 1) << (threadIdx.x % 32 / COUNT * COUNT);
  return __shfl_xor_sync(all, v, lanes);
}

FISEC_DEVICE void sync_warp() { __syncwarp(); }

// A cluster of thread blocks runs at once on neighbouring multiprocessors and reads each other's shared memory.
FISEC_DEVICE void cluster_barrier() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}
// What lies at `shared` in block `rank` of the cluster; four floats.
FISEC_DEVICE float4 load_from_block(const float* shared, int rank) {
  float4 v = {};
#if __CUDA_ARCH__ >= 900
  asm volatile("{\n.reg .u32 there;\nmapa.shared::cluster.u32 there, %4, %5;\nld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [there];\n}"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(shared_address(shared)), "r"(rank) : "memory");
#endif
  return v;
}

// A flag in global memory that one block raises for another, which started no later than it. Before: all threads that wrote what the flag
// speaks of have called publish_to_blocks and met. After: the waiting thread's block meets, and reads with load_published.
FISEC_DEVICE void publish_to_blocks() { __threadfence(); }
FISEC_DEVICE void raise_flag(int* flag) { asm volatile("st.release.gpu.global.b32 [%0], 1;" ::"l"(flag) : "memory"); }
FISEC_DEVICE void await_flag(int* flag) {  // and lowers it
  int raised;
  do asm volatile("ld.acquire.gpu.global.b32 %0, [%1];" : "=r"(raised) : "l"(flag) : "memory");
  while (!raised);
  *flag = 0;
}
FISEC_DEVICE float4 load_published(const float4* p) { return __ldcg(p); }

// Programmatic dependent launch: a kernel launched with the attribute may start while the one before it drains.
// Everything that an earlier kernel of the graph writes is read after wait_for_previous_kernel; weights and
// index tables, written when the mask was bound, may be read before. Every thread block must call it,
// also those with nothing to do: a kernel that ends without waiting would release its successors too early.
FISEC_DEVICE void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
FISEC_DEVICE void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
#endif
