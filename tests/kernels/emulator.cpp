// Runs the CUDA branch of the kernels on a CPU, behind the functions of NVIDIA's driver that `kernels.driver` calls.
// A warp is 32 fibres that switch where threads of a GPU exchange values; a thread that misses an exchange, or waits at
// another one than its warp, is an error as it would be (unnoticed) on a GPU.
#include <ucontext.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <utility>

#define __CUDACC__
#define EMULATED
#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct Index {
  unsigned x;
};
static Index threadIdx, blockIdx;

constexpr int WARP = 32;
constexpr int STACK = 1 << 16;
enum Exchange { NONE, BALLOT, SHUFFLE, SHUFFLE_XOR, DONE };

static ucontext_t scheduler, fibres[WARP];
static char stacks[WARP][STACK];
static Exchange waiting[WARP];
static int slots[2][WARP];  // in turn: the fastest fibre may write the next value while the slowest reads this one
static int turn[WARP], current;

// Leaves a value for the others and comes back when all have.
static const int* exchange(Exchange kind, int value) {
  const int lane = current, mine = turn[lane]++ & 1;
  slots[mine][lane] = value;
  waiting[lane] = kind;
  swapcontext(&fibres[lane], &scheduler);
  return slots[mine];
}

static unsigned __ballot_sync(unsigned, bool mask) {
  const int* all = exchange(BALLOT, mask);
  unsigned bits = 0;
  for (int l = 0; l < WARP; ++l) bits |= all[l] ? 1u << l : 0u;
  return bits;
}
static int __shfl_sync(unsigned, int value, int lane) { return exchange(SHUFFLE, value)[lane % WARP]; }
static float __shfl_xor_sync(unsigned, float value, int step, int) {
  int bits;
  memcpy(&bits, &value, 4);
  const int lane = current;
  memcpy(&value, &exchange(SHUFFLE_XOR, bits)[lane ^ step], 4);
  return value;
}
static int __ffs(int bits) { return __builtin_ffs(bits); }
static float __int_as_float(int bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

#include "device.cu"

struct Call {
  void (*run)(void* kernel, void** arguments);
  void* kernel;
  void** arguments;
};
static Call call;
static char divergence[128];

template <class... A, std::size_t... I>
static void unpack(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*(A*)arguments[I]...);
}
template <class... A> static void run(void* kernel, void** arguments) {
  unpack((void (*)(A...))kernel, arguments, std::index_sequence_for<A...>{});
}
template <class... A> static Call prepare_call(void (*kernel)(A...)) { return {run<A...>, (void*)kernel, nullptr}; }

static void fibre() {
  call.run(call.kernel, call.arguments);
  waiting[current] = DONE;
}

// False: the warp diverged.
static bool run_warp(int warp) {
  for (int l = 0; l < WARP; ++l) {
    getcontext(&fibres[l]);
    fibres[l].uc_stack.ss_sp = stacks[l];
    fibres[l].uc_stack.ss_size = STACK;
    fibres[l].uc_link = &scheduler;
    makecontext(&fibres[l], fibre, 0);
    turn[l] = 0;
  }
  do {
    for (current = 0; current < WARP; ++current) {
      threadIdx.x = warp * WARP + current;
      swapcontext(&scheduler, &fibres[current]);
    }
    for (int l = 1; l < WARP; ++l)
      if (waiting[l] != waiting[0]) {
        snprintf(divergence, sizeof divergence, "divergent warp: lanes 0 and %d wait at exchanges %d and %d", l,
                 (int)waiting[0], (int)waiting[l]);
        return false;
      }
  } while (waiting[0] != DONE);
  return true;
}

struct Entry {
  const char* name;
  Call call;
};
static Entry entries[] = {
    {"asrbench_prepare", prepare_call(asrbench_prepare)},     {"asrbench_draw", prepare_call(asrbench_draw)},
    {"asrbench_gather", prepare_call(asrbench_gather)},       {"asrbench_emit_int", prepare_call(asrbench_emit_int)},
    {"asrbench_emit_short", prepare_call(asrbench_emit_short)},
};

extern "C" {
int cuInit(unsigned) { return 0; }
int cuModuleLoadData(void** module, const void*) {
  *module = nullptr;
  return 0;
}
int cuModuleGetFunction(void** function, void*, const char* name) {
  for (Entry& entry : entries)
    if (!strcmp(entry.name, name)) {
      *function = &entry;
      return 0;
    }
  return 500;
}
int cuGetErrorName(int, const char** text) {
  *text = "EMULATOR_ERROR";
  return 0;
}
int cuGetErrorString(int, const char** text) {
  *text = divergence;
  return 0;
}
int cuLaunchKernel(void* function, unsigned x, unsigned, unsigned, unsigned threads, unsigned, unsigned, unsigned,
                   void*, void** arguments, void**) {
  call = ((Entry*)function)->call;
  call.arguments = arguments;
  for (blockIdx.x = 0; blockIdx.x < x; ++blockIdx.x)
    for (unsigned warp = 0; warp < threads / WARP; ++warp)
      if (!run_warp((int)warp)) return 719;
  return 0;
}
}
