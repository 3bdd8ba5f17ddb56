// Before a step's graph: counts the step and points the slot table at this step's slots,
// so that one graph is replayed for every step with no word from the host.
#include "ptx.cuh"

struct AdvanceParams {
  uint64_t all_slots;  // const uint64_t* [steps][slot_count]
  uint64_t slots;      // uint64_t* [slot_count], written
  uint64_t next;       // int32_t*: the step to run; read, then incremented
  uint64_t step;       // int32_t*: the step that runs, written
  int32_t slot_count, steps;
};
static_assert(sizeof(AdvanceParams) == 40);

// One block of 256 threads. Past the last step the table stays as it is.
extern "C" __global__ void __launch_bounds__(256) advance_step(const __grid_constant__ AdvanceParams p) {
  wait_for_previous_kernel();
  int32_t* next = reinterpret_cast<int32_t*>(p.next);
  int step = *next;
  __syncthreads();
  if (step >= p.steps) return;
  if (threadIdx.x == 0) *reinterpret_cast<int32_t*>(p.step) = step, *next = step + 1;
  const uint64_t* row = reinterpret_cast<const uint64_t*>(p.all_slots) + size_t(step) * p.slot_count;
  for (int j = threadIdx.x; j < p.slot_count; j += 256) reinterpret_cast<uint64_t*>(p.slots)[j] = row[j];
}
