// The GPU backend's kernels, compiled by NVRTC for CHANNELS channels at a time. No atomics, no order that could vary:
// a warp draws a patch from the sorted list of its bin, and each Gaussian gathers its gradients from its own box.
#include "gaussians.h"

constexpr int C = CHANNELS;
constexpr int BIN = 32;       // side of a bin in pixels; mirrored by `kernels.cuda`
constexpr int THREADS = 128;  // in a block; likewise
#if !defined(GATHER_LANES)
#define GATHER_LANES 8  // that share a Gaussian in the backward pass: fewer idle for narrow boxes, more for wide ones
#endif
using PatchOfWarp = Geometry<32, 8, 2>;  // 8 x 8 pixels

struct One {
  Shapes<1> shape;
  Record<C> record;
};

// Gaussian n of the flattened batch.
KERNEL One read(const Scene& scene, long long n) {
  const float mu_y = scene.mu[2 * n], mu_x = scene.mu[2 * n + 1];
  const float sigma_y = scene.sigma[2 * n], sigma_x = scene.sigma[2 * n + 1], rho = scene.rho[n];
  One one;
  const float* color = scene.color + n * scene.all_channels;
  float sum = 0.0f;
  for (int c = 0; c < scene.all_channels; ++c) sum += color[c];
  one.shape = prepare<1>(mu_y, mu_x, sigma_y, sigma_x, rho, sum, limits_of(scene, n / scene.count));
  one.record.mu_y = mu_y, one.record.mu_x = mu_x;
  one.record.a = one.shape.a, one.record.b = one.shape.b, one.record.d = one.shape.d;
  for (int c = 0; c < C; ++c) one.record.color[c] = color[scene.first_channel + c];
  return one;
}

KERNEL Box box_of(const Shapes<1>& shape) {
  return {Box::pack(shape.y0, shape.y1), Box::pack(shape.x0, shape.x1)};
}

KERNEL long long thread_index() { return (long long)blockIdx.x * THREADS + threadIdx.x; }

// One thread per Gaussian. counts: how many bins each touches.
extern "C" __global__ void __launch_bounds__(THREADS)
asrbench_prepare(Scene scene, Record<C>* records, Box* boxes, int* counts) {
  const long long n = thread_index();
  if (n >= scene.batch * scene.count) return;
  const One one = read(scene, n);
  const Box box = box_of(one.shape);
  records[n] = one.record;
  boxes[n] = box;
  const bool empty = box.y0() > box.y1();
  counts[n] = empty ? 0 : (box.y1() / BIN - box.y0() / BIN + 1) * (box.x1() / BIN - box.x0() / BIN + 1);
}

// One thread per Gaussian: writes its number beside that of each bin that it touches. ends: the running sum of counts.
// Key: short or int, as the number of bins allows: sorting takes time for every byte.
template <class Key>
KERNEL void emit(const Scene& scene, const Box* boxes, const long long* ends, long long capacity, Key* keys,
                 int* members) {
  const long long n = thread_index();
  if (n >= scene.batch * scene.count) return;
  const Box box = boxes[n];
  if (box.y0() > box.y1()) return;
  const int bins_y = (scene.height + BIN - 1) / BIN, bins_x = (scene.width + BIN - 1) / BIN;
  const int first_bin = (int)(n / scene.count) * bins_y * bins_x;
  long long at = n ? ends[n - 1] : 0;
  for (int y = box.y0() / BIN; y <= box.y1() / BIN; ++y)
    for (int x = box.x0() / BIN; x <= box.x1() / BIN; ++x, ++at)
      if (at < capacity) keys[at] = (Key)(first_bin + y * bins_x + x), members[at] = (int)n;
}

extern "C" __global__ void __launch_bounds__(THREADS)
asrbench_emit_short(Scene scene, const Box* boxes, const long long* ends, long long capacity, short* keys,
                    int* members) {
  emit(scene, boxes, ends, capacity, keys, members);
}
extern "C" __global__ void __launch_bounds__(THREADS)
asrbench_emit_int(Scene scene, const Box* boxes, const long long* ends, long long capacity, int* keys, int* members) {
  emit(scene, boxes, ends, capacity, keys, members);
}

// One warp per patch. starts: where each bin's members begin, and their end. Where the lists did not fit their capacity
// the image becomes NaN: drawing what did fit would look right.
extern "C" __global__ void __launch_bounds__(THREADS)
asrbench_draw(Scene scene, const Record<C>* records, const Box* boxes, const int* members, const long long* starts,
              const long long* ends, long long capacity, float* image) {
  constexpr int SIDE = PatchOfWarp::width;
  const int patches_y = (scene.height + SIDE - 1) / SIDE, patches_x = (scene.width + SIDE - 1) / SIDE;
  const long long warp = thread_index() / 32;
  if (warp >= scene.batch * patches_y * patches_x) return;  // the whole warp
  const int left = (int)(warp % patches_x) * SIDE, top = (int)(warp / patches_x % patches_y) * SIDE;
  const long long of = warp / patches_x / patches_y;
  const int bins_y = (scene.height + BIN - 1) / BIN, bins_x = (scene.width + BIN - 1) / BIN;
  const long long bin = (of * bins_y + top / BIN) * bins_x + left / BIN;
  const long long start = starts[bin];
  Patch<PatchOfWarp, C> patch = {};
  patch.add_list(members + start, (int)(starts[bin + 1] - start), records, boxes, top, left);
  const bool fit = ends[scene.batch * scene.count - 1] <= capacity;
  const int lane = lane_index<32>(), x = left + lane % SIDE;
  UNROLL
  for (int r = 0; r < PatchOfWarp::down; ++r) {
    const int y = top + r * PatchOfWarp::step + lane / SIDE;
    if (y >= scene.height || x >= scene.width) continue;
    float* pixel = image + ((of * scene.all_channels + scene.first_channel) * scene.height + y) * scene.width + x;
    UNROLL
    for (int c = 0; c < C; ++c)
      pixel[(long long)c * scene.height * scene.width] = fit ? patch.sum[r][c] : __int_as_float(0x7fc00000);
  }
}

// GATHER_LANES threads per Gaussian. Gradients are added to what is there: groups of channels follow one another.
extern "C" __global__ void __launch_bounds__(THREADS, 6)
asrbench_gather(Scene scene, const float* upstream, float* mu, float* sigma, float* rho, float* color) {
  constexpr int L = GATHER_LANES;
  const long long group = thread_index() / L, last = scene.batch * scene.count - 1;
  const long long n = group <= last ? group : last;  // all threads of a warp stay for the sums
  const One one = read(scene, n);
  const Box box = box_of(one.shape);
  const long long plane = (long long)scene.height * scene.width;
  const float* from = upstream + (n / scene.count * scene.all_channels + scene.first_channel) * plane;
  Sums<L, C> sums = {};
  Rows<C> rows = {one.record};
  gather(sums, one.record, box, box.y0(), box.y1(), rows, from, scene.width, plane);
  const float t_u = group_sum<L>(sums.t_u), t_v = group_sum<L>(sums.t_v);
  const float t_uu = group_sum<L>(sums.t_uu), t_uv = group_sum<L>(sums.t_uv), t_vv = group_sum<L>(sums.t_vv);
  float w_g[C];
  UNROLL
  for (int c = 0; c < C; ++c) w_g[c] = group_sum<L>(sums.w_g[c]);
  if (lane_index<L>() || group > last || box.y0() > box.y1()) return;
  const float sigma_y = scene.sigma[2 * n], sigma_x = scene.sigma[2 * n + 1];
  const Gradients<1> g = finish<1>(t_u, t_v, t_uu, t_uv, t_vv, sigma_y, sigma_x, scene.rho[n]);
  mu[2 * n] += g.mu_y, mu[2 * n + 1] += g.mu_x;
  sigma[2 * n] += g.sigma_y, sigma[2 * n + 1] += g.sigma_x;
  rho[n] += g.rho;
  UNROLL
  for (int c = 0; c < C; ++c) color[n * scene.all_channels + scene.first_channel + c] = w_g[c];
}
