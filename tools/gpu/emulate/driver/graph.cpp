// Graphs: captured work, replayed in an order that respects what follows what and nothing else.
#include "driver.h"

using namespace fake;
struct CUgraphExec_st {
  std::vector<Act> acts;
};

// The latest node that nothing left waits for comes first, seen from the end: branches run in another order than they were
// captured in, so that an edge that is missing shows.
static std::vector<Act> reordered(const std::vector<CUgraph_st::Node>& nodes) {
  std::vector<int> missing(nodes.size());
  std::vector<std::vector<int>> followers(nodes.size());
  std::vector<int> ready;
  for (size_t n = 0; n < nodes.size(); ++n) {
    missing[n] = int(nodes[n].after.size());
    for (int before : nodes[n].after) followers[before].push_back(int(n));
    if (!missing[n]) ready.push_back(int(n));
  }
  std::vector<Act> acts;
  while (!ready.empty()) {
    int n = ready.back();
    ready.pop_back();
    acts.push_back(nodes[n].act);
    for (int next : followers[n])
      if (--missing[next] == 0) ready.push_back(next);
  }
  return acts;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec* out, CUgraph graph, unsigned long long flags) {
  ENTER;
  if (flags) return fail(CUDA_ERROR_NOT_SUPPORTED, "graph flags %llu", flags);
  *out = new CUgraphExec_st{reordered(graph->nodes)};
  return CUDA_SUCCESS;
}
CUresult cuGraphLaunch(CUgraphExec graph, CUstream stream) {
  ENTER;
  if (!graph) return CUDA_ERROR_INVALID_VALUE;
  if (capturing(stream)) return fail(CUDA_ERROR_NOT_SUPPORTED, "a graph inside a graph");
  return submit(stream, [acts = graph->acts] {
    for (const Act& act : acts)
      if (CUresult status = act()) return status;
    return CUDA_SUCCESS;
  });
}
CUresult cuGraphUpload(CUgraphExec graph, CUstream) {
  ENTER;
  return graph ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuGraphGetNodes(CUgraph graph, CUgraphNode* nodes, size_t* count) {
  ENTER;
  if (nodes) return CUDA_ERROR_NOT_SUPPORTED;
  *count = graph->nodes.size();
  return CUDA_SUCCESS;
}
CUresult cuGraphExecDestroy(CUgraphExec graph) {
  ENTER;
  delete graph;
  return CUDA_SUCCESS;
}
CUresult cuGraphDestroy(CUgraph graph) {
  ENTER;
  delete graph;
  return CUDA_SUCCESS;
}
