// What the kernels need besides plain arithmetic. They are written once, for a group of G lanes: on a GPU a lane is a
// thread and a value of the group is one register; on a CPU the group is a vector. What all lanes share is a plain
// number on both.
//
//                      GPU                         CPU
//   Floats<G>          float                       vector of G floats
//   Ints<G>            int                         vector of G ints; comparisons give such a vector too
//   lane_index<G>()    place of the thread         0, 1, .. G - 1
//   ballot, pick       warp vote, warp shuffle     loop, index
//   group_sum<G>       tree of warp shuffles       the same tree over the vector
//
// Fused multiply-adds are written out, and compilers are told to add none of their own: so every build decides alike
// which pixels count, and images do not depend on the width of the vectors.
#pragma once

#if defined(__CUDACC__)  // NVRTC, nvcc, or the emulator of the tests

#define KERNEL __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#define UNROLL_TWICE _Pragma("unroll 2")  // of a long loop: more would cost registers

template <int G> using Floats = float;
template <int G> using Ints = int;

template <int G> KERNEL int lane_index() { return (int)(threadIdx.x % G); }
template <int G> KERNEL float broadcast(float value) { return value; }
KERNEL float to_float(int value) { return (float)value; }
KERNEL int to_int(float value) { return (int)value; }
KERNEL float fused(float a, float b, float c) { return fmaf(a, b, c); }
KERNEL float select(bool mask, float yes, float no) { return mask ? yes : no; }
KERNEL int select(bool mask, int yes, int no) { return mask ? yes : no; }
KERNEL float smaller(float a, float b) { return fminf(a, b); }
KERNEL float larger(float a, float b) { return fmaxf(a, b); }
KERNEL float magnitude(float a) { return fabsf(a); }
KERNEL float square_root(float a) { return sqrtf(a); }
KERNEL float round_down(float a) { return floorf(a); }
KERNEL float round_up(float a) { return ceilf(a); }

// from[lane], or 0 where the lane's mask is off: such places need not exist.
template <int G> KERNEL float load(const float* from, bool mask) { return mask ? from[lane_index<G>()] : 0.0f; }
template <int G> KERNEL int load(const int* from, bool mask) { return mask ? from[lane_index<G>()] : 0; }

// test(value) in every lane.
template <class Test> KERNEL bool test_lanes(int value, Test test) { return test(value); }

// Votes and shuffles are those of a whole warp.
KERNEL unsigned ballot(bool mask) { return __ballot_sync(0xffffffffu, mask); }
KERNEL int pick(int value, int lane) { return __shfl_sync(0xffffffffu, value, lane); }
KERNEL int lowest_bit(unsigned bits) { return __ffs((int)bits) - 1; }

template <int G> KERNEL float group_sum(float value) {
  UNROLL
  for (int step = G / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step, G);
  return value;
}

// 2^x for x <= 0, within 2 units in the last place; 0 below 2^-126.
KERNEL float exp2_negative(float x) {
#if defined(EMULATED)
  return x < -126.0f ? 0.0f : exp2f(x);
#else
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
#endif
}

#else

#include <cstring>

#define KERNEL inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif
#define UNROLL_TWICE
#define EACH_LANE(l, V) for (unsigned l = 0; l < sizeof(V) / sizeof(float); ++l)

template <int G> struct Group {
  typedef float FloatVector __attribute__((vector_size(4 * G)));
  typedef int IntVector __attribute__((vector_size(4 * G)));
  typedef unsigned UnsignedVector __attribute__((vector_size(4 * G)));
};
template <int G> using Floats = typename Group<G>::FloatVector;
template <int G> using Ints = typename Group<G>::IntVector;

// The loops over lanes below become single instructions where the CPU has vectors as long as the group.
template <int G> KERNEL Ints<G> lane_index() {
  Ints<G> index;
  EACH_LANE(l, index) index[l] = (int)l;
  return index;
}
template <int G> KERNEL Floats<G> broadcast(float value) { return value - Floats<G>{}; }
template <class I> KERNEL auto to_float(I value) { return __builtin_convertvector(value, Floats<sizeof(I) / 4>); }
template <class F> KERNEL auto to_int(F value) { return __builtin_convertvector(value, Ints<sizeof(F) / 4>); }
// Named instructions where compilers do not see them in the loop.
template <class F> KERNEL F fused(F a, F b, F c) {
#if __has_builtin(__builtin_elementwise_fma)
  return __builtin_elementwise_fma(a, b, c);
#elif defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#if defined(__AVX512F__)
  if constexpr (sizeof(F) == 64) return __builtin_ia32_vfmaddps512_mask(a, b, c, -1, 4);
#endif
#if defined(__FMA__)
  if constexpr (sizeof(F) == 32) return __builtin_ia32_vfmaddps256(a, b, c);
  if constexpr (sizeof(F) == 16) return __builtin_ia32_vfmaddps(a, b, c);
#endif
  F result;
  EACH_LANE(l, F) result[l] = __builtin_fmaf(a[l], b[l], c[l]);
  return result;
#else
  return a * b + c;
#endif
}
template <class M, class V> KERNEL V select(M mask, V yes, V no) { return mask ? yes : no; }
template <class F> KERNEL F smaller(F a, F b) { return a < b ? a : b; }
template <class F> KERNEL F larger(F a, F b) { return a > b ? a : b; }
template <class F> KERNEL F magnitude(F a) { return a < 0 ? -a : a; }
template <class F> KERNEL F square_root(F a) {
  EACH_LANE(l, F) a[l] = __builtin_sqrtf(a[l]);
  return a;
}
template <class F> KERNEL F round_down(F a) {
  EACH_LANE(l, F) a[l] = __builtin_floorf(a[l]);
  return a;
}
template <class F> KERNEL F round_up(F a) {
  EACH_LANE(l, F) a[l] = __builtin_ceilf(a[l]);
  return a;
}

template <int G> KERNEL Floats<G> load(const float* from) {
  Floats<G> value;
  memcpy(&value, from, sizeof value);
  return value;
}
template <class F> KERNEL void store(float* to, F value) { memcpy(to, &value, sizeof value); }
// Unlike on a GPU, all G places must exist; what lies where the mask is off does not matter.
template <int G> KERNEL Floats<G> load(const float* from, Ints<G> mask) {
  return (Floats<G>)((Ints<G>)load<G>(from) & mask);
}
template <int G> KERNEL Ints<G> load(const int* from, Ints<G> mask) {
  Ints<G> value;
  EACH_LANE(l, value) value[l] = mask[l] ? from[l] : 0;
  return value;
}

template <class I, class Test> KERNEL I test_lanes(I value, Test test) {
  EACH_LANE(l, I) value[l] = test(value[l]) ? -1 : 0;
  return value;
}
template <class I> KERNEL unsigned ballot(I mask) {
  unsigned bits = 0;
  EACH_LANE(l, I) bits |= mask[l] ? 1u << l : 0u;
  return bits;
}
template <class I> KERNEL int pick(I value, int lane) { return value[lane]; }
KERNEL int lowest_bit(unsigned bits) { return __builtin_ctz(bits); }

template <int G> KERNEL float group_sum(Floats<G> value) {
  if constexpr (G == 1) {
    return value[0];
  } else {
    Floats<G / 2> half[2];
    memcpy(half, &value, sizeof value);
    return group_sum<G / 2>(half[0] + half[1]);
  }
}

// 2^x for x <= 0, relative error 1.6e-7, exact at 0; 0 below 2^-126.
template <class F> KERNEL F exp2_negative(F x) {
  using I = Ints<sizeof(F) / 4>;
  using U = typename Group<sizeof(F) / 4>::UnsignedVector;
  const F zero = {};
  const I in_range = x >= -126.0f;
  const F shifted = x + 12582912.0f;  // 1.5 2^23: the sum's last bits are round(x)
  const F f = x - (shifted - 12582912.0f);
  F p = fused(f, zero + 0.0013264730965f, zero + 0.00967151276133f);
  p = fused(f, p, zero + 0.0555073372794f);
  p = fused(f, p, zero + 0.240222420828f);
  p = fused(f, p, zero + 0.693146977615f);
  p = fused(f, p, zero + 1.0f);
  return (F)(((U)p + ((U)shifted << 23)) & (U)in_range);  // unsigned: what is out of range overflows
}

#endif
