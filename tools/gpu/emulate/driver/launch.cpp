// Modules, functions and launches. An entry's code is the emulated build beside this library, whatever cubin the module came from.
#include "driver.h"
#include <dlfcn.h>
#include <elf.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <algorithm>
#include <chrono>

namespace fake {
const char* running = nullptr;

namespace {
constexpr int kStaticLimit = 48 << 10, kSharedLimit = 227 << 10, kMostClusterBlocks = 8;

struct EmulatedEntry { const char* name; void (*run)(const void*); int parameter_bytes, threads; };  // as emulate.h
struct Kernel {
  EmulatedEntry entry;
  int (*launch)(void (*)(const void*), const int*, int, int, const void*, int);
  void (*where)(int*);
  int launches = 0;
  double seconds = 0;
};
void (*where_now)(int*) = nullptr;

std::string folder() {
  if (const char* wanted = getenv("FISEC_EMULATED_KERNELS")) return wanted;
  Dl_info info;
  dladdr(reinterpret_cast<void*>(&folder), &info);
  std::string path = info.dli_fname;
  return path.substr(0, path.rfind('/') + 1) + ".";
}

struct Kernels {
  std::map<std::string, Kernel> by_name;
  Kernels() {
    glob_t found;
    if (glob((folder() + "/*.so").c_str(), 0, nullptr, &found)) return;
    for (size_t j = 0; j < found.gl_pathc; ++j) {
      void* library = dlopen(found.gl_pathv[j], RTLD_NOW | RTLD_LOCAL);
      auto* entries = library ? static_cast<EmulatedEntry*>(dlsym(library, "emulated_entries")) : nullptr;
      if (!entries) continue;
      for (; entries->name; ++entries) {
        Kernel& k = by_name[entries->name];
        k.entry = *entries;
        k.launch = reinterpret_cast<decltype(k.launch)>(dlsym(library, "emulate_launch"));
        k.where = reinterpret_cast<decltype(k.where)>(dlsym(library, "emulate_where"));
      }
    }
    globfree(&found);
  }
  ~Kernels() {  // FISEC_EMULATED_TIMES: what took how long
    if (!getenv("FISEC_EMULATED_TIMES")) return;
    for (auto& [name, k] : by_name)
      if (k.launches) fprintf(stderr, "emulated GPU: %8.3f s in %5d of %s\n", k.seconds, k.launches, name.c_str());
  }
};
Kernels& kernels() {
  static Kernels all;
  return all;
}

size_t elf_bytes(const void* image) {
  const auto* header = static_cast<const Elf64_Ehdr*>(image);
  if (memcmp(header->e_ident, ELFMAG, SELFMAG)) return 0;
  size_t sections = header->e_shoff + size_t(header->e_shentsize) * header->e_shnum;
  return std::max<size_t>(sections, header->e_phoff + size_t(header->e_phentsize) * header->e_phnum);
}
}  // namespace

void where(int (&place)[4]) { where_now(place); }
}  // namespace fake

using namespace fake;
struct CUmod_st {
  std::string image;
};
struct CUfunc_st {
  Kernel* kernel;
  int most_shared = kStaticLimit, carveout = -1;
};

namespace {
struct Shape { int grid[3]; int threads, shared, cluster; };

CUresult refuse(const CUfunc_st& f, const char* why) { return fail(CUDA_ERROR_INVALID_VALUE, "launch of %s: %s", f.kernel->entry.name, why); }

// What a GPU would refuse, and what the emulator cannot do.
CUresult check(const CUfunc_st& f, const Shape& s) {
  if (s.grid[0] < 1 || s.grid[1] < 1 || s.grid[2] < 1 || s.grid[1] > 65535 || s.grid[2] > 65535) return refuse(f, "grid");
  if (s.threads < 1 || s.threads > f.kernel->entry.threads) return refuse(f, "more threads than it was compiled for");
  if (s.threads % 32) return fail(CUDA_ERROR_NOT_SUPPORTED, "launch of %s: warps that are not full", f.kernel->entry.name);
  if (s.shared > f.most_shared) return refuse(f, "more shared memory than cuFuncSetAttribute allowed");
  if (s.cluster < 1 || s.cluster > kMostClusterBlocks || s.grid[2] % s.cluster) return refuse(f, "cluster");
  return CUDA_SUCCESS;
}

CUresult run(Kernel& k, const Shape& s, const std::string& parameters) {
  auto begin = std::chrono::steady_clock::now();
  running = k.entry.name, where_now = k.where;
  int stuck = k.launch(k.entry.run, s.grid, s.threads, s.shared, parameters.data(), s.cluster);
  running = nullptr;
  ++k.launches;
  k.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return stuck ? fail(CUDA_ERROR_LAUNCH_TIMEOUT, "%s: a block's threads wait for each other for ever", k.entry.name) : CUDA_SUCCESS;
}

CUresult launch(CUfunction f, const Shape& shape, CUstream stream, void** parameters, void** extra) {
  if (!f || !parameters || extra) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult status = check(*f, shape)) return status;
  std::string copy(static_cast<const char*>(parameters[0]), f->kernel->entry.parameter_bytes);
  return submit(stream, [kernel = f->kernel, shape, copy] { return run(*kernel, shape, copy); });
}
}  // namespace

CUresult cuModuleLoadData(CUmodule* out, const void* image) {
  ENTER;
  size_t bytes = elf_bytes(image);
  if (!bytes) return fail(CUDA_ERROR_INVALID_IMAGE, "a module that is not a cubin");
  int built_for = static_cast<const Elf64_Ehdr*>(image)->e_flags >> 8 & 0xff;  // CUDA 13's cubins keep it there
  if (built_for / 10 != capability(true) || built_for % 10 > capability(false))
    return fail(CUDA_ERROR_NO_BINARY_FOR_GPU, "a cubin for sm_%d", built_for);
  *out = new CUmod_st{std::string(static_cast<const char*>(image), bytes)};
  return CUDA_SUCCESS;
}
CUresult cuModuleUnload(CUmodule module) {
  ENTER;
  CUresult status = drain_all();
  delete module;
  return status;
}
CUresult cuModuleGetFunction(CUfunction* out, CUmodule module, const char* name) {
  ENTER;
  if (module->image.find(std::string(name) + '\0') == std::string::npos) return CUDA_ERROR_NOT_FOUND;
  auto found = kernels().by_name.find(name);
  if (found == kernels().by_name.end()) return fail(CUDA_ERROR_NOT_FOUND, "%s is in the cubin but not in the emulated kernels of %s", name, folder().c_str());
  *out = new CUfunc_st{&found->second};
  return CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute attribute, int value) {
  ENTER;
  if (attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
    if (value < 0 || value > kSharedLimit) return CUDA_ERROR_INVALID_VALUE;
    f->most_shared = value;
    return CUDA_SUCCESS;
  }
  if (attribute != CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT) return fail(CUDA_ERROR_NOT_SUPPORTED, "function attribute %d", attribute);
  if (value < -1 || value > 100) return CUDA_ERROR_INVALID_VALUE;
  f->carveout = value;
  return CUDA_SUCCESS;
}
CUresult cuFuncGetAttribute(int* out, CUfunction_attribute attribute, CUfunction f) {
  ENTER;
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *out = f->kernel->entry.threads; return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: *out = f->most_shared; return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT: *out = f->carveout; return CUDA_SUCCESS;
    default: return fail(CUDA_ERROR_NOT_SUPPORTED, "function attribute %d", attribute);
  }
}
CUresult cuLaunchKernelEx(const CUlaunchConfig* c, CUfunction f, void** parameters, void** extra) {
  ENTER;
  Shape shape = {{int(c->gridDimX), int(c->gridDimY), int(c->gridDimZ)}, int(c->blockDimX), int(c->sharedMemBytes), 1};
  if (c->blockDimY != 1 || c->blockDimZ != 1) return fail(CUDA_ERROR_NOT_SUPPORTED, "blocks of more than one dimension");
  for (unsigned j = 0; j < c->numAttrs; ++j) {
    const CUlaunchAttribute& a = c->attrs[j];
    if (a.id == CU_LAUNCH_ATTRIBUTE_IGNORE || a.id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION) continue;
    if (a.id != CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION) return fail(CUDA_ERROR_NOT_SUPPORTED, "launch attribute %d", a.id);
    if (a.value.clusterDim.x != 1 || a.value.clusterDim.y != 1) return fail(CUDA_ERROR_NOT_SUPPORTED, "clusters along x or y");
    shape.cluster = int(a.value.clusterDim.z);
  }
  return launch(f, shape, c->hStream, parameters, extra);
}
CUresult cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, CUstream stream,
                        void** parameters, void** extra) {
  CUlaunchConfig config = {gx, gy, gz, bx, by, bz, shared, stream, nullptr, 0};
  return cuLaunchKernelEx(&config, f, parameters, extra);
}
