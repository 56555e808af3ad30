// What only the GPU backend uses of gaussians.h, for the CPU: patches and lists of any size, gathering by any number of
// lanes and without a table of rows. Scenes have CHANNELS channels.
#include <cstdint>
#include <vector>

#include "gaussians.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

constexpr int C = CHANNELS;

struct Prepared {
  std::vector<Record<C>> records;
  std::vector<Box> boxes;
};

// All Gaussians of the batch, G at a time.
template <int G> static Prepared prepare_all(const Scene& scene) {
  Prepared all;
  for (int64_t image = 0; image < scene.batch; ++image)
    for (int64_t i = 0; i < scene.count; i += G) {
      Floats<G> mu_y, mu_x, sigma_y, sigma_x, rho, color_sum = {};
      for (int l = 0; l < G; ++l) {
        const int64_t n = image * scene.count + (i + l < scene.count ? i + l : scene.count - 1);
        mu_y[l] = scene.mu[2 * n], mu_x[l] = scene.mu[2 * n + 1];
        sigma_y[l] = scene.sigma[2 * n], sigma_x[l] = scene.sigma[2 * n + 1];
        rho[l] = scene.rho[n];
        for (int c = 0; c < C; ++c) color_sum[l] += scene.color[n * C + c];
      }
      const Shapes<G> s = prepare<G>(mu_y, mu_x, sigma_y, sigma_x, rho, color_sum, limits_of(scene, image));
      for (int l = 0; l < G && i + l < scene.count; ++l) {
        Record<C> record = {s.mu_y[l], s.mu_x[l], s.a[l], s.b[l], s.d[l], {}};
        for (int c = 0; c < C; ++c) record.color[c] = scene.color[(image * scene.count + i + l) * C + c];
        all.records.push_back(record);
        all.boxes.push_back({Box::pack(s.y0[l], s.y1[l]), Box::pack(s.x0[l], s.x1[l])});
      }
    }
  return all;
}

// out: (B, N, 4) as y0, x0, y1, x1.
template <int G> static void write_boxes(const Scene& scene, int32_t* out) {
  for (const Box& box : prepare_all<G>(scene).boxes)
    *out++ = box.y0(), *out++ = box.x0(), *out++ = box.y1(), *out++ = box.x1();
}

// The Gaussians of an image that touch the bin of a pixel. side: of a bin; 0: all Gaussians are listed.
static std::vector<int> members_of(const Scene& scene, const Prepared& all, int64_t image, int side, int y, int x) {
  std::vector<int> members;
  for (int64_t n = image * scene.count; n < (image + 1) * scene.count; ++n) {
    const Box& box = all.boxes[n];
    if (!side || (box.y0() <= box.y1() && box.y0() / side <= y / side && box.y1() / side >= y / side &&
                  box.x0() / side <= x / side && box.x1() / side >= x / side))
      members.push_back((int)n);
  }
  return members;
}

// bin: its side, a multiple of the patch's sides, or 0. out: (B, C, H, W).
template <class P> static void draw(const Scene& scene, int bin, float* out) {
  const Prepared all = prepare_all<1>(scene);
  for (int64_t image = 0; image < scene.batch; ++image)
    for (int top = 0; top < scene.height; top += P::height)
      for (int left = 0; left < scene.width; left += P::width) {
        const std::vector<int> members = members_of(scene, all, image, bin, top, left);
        Patch<P, C> patch = {};
        patch.add_list(members.data(), (int)members.size(), all.records.data(), all.boxes.data(), top, left);
        for (int r = 0; r < P::down; ++r)
          for (int l = 0; l < P::lanes; ++l) {
            const int y = top + r * P::step + l / P::across, x = left + l % P::across;
            if (y >= scene.height || x >= scene.width) continue;
            for (int c = 0; c < C; ++c)
              out[((image * C + c) * scene.height + y) * scene.width + x] = patch.sum[r][c][l];
          }
      }
}

// upstream: planar, rows padded to row_stride floats, at least G beyond the last pixel.
template <int G>
static void gather_all(const Scene& scene, const float* upstream, int32_t row_stride, float* mu, float* sigma,
                       float* rho, float* color) {
  const Prepared all = prepare_all<1>(scene);
  const int64_t plane = (int64_t)scene.height * row_stride;
  for (int64_t n = 0; n < scene.batch * scene.count; ++n) {
    const Box& box = all.boxes[n];
    if (box.y0() > box.y1()) continue;
    const float* from = upstream + n / scene.count * C * plane;
    Rows<C> rows = {all.records[n]};
    Sums<G, C> sums = {};
    gather(sums, all.records[n], box, box.y0(), box.y1(), rows, from, row_stride, plane);
    const Floats<1> none = {};
    const Gradients<1> g =
        finish<1>(none + group_sum<G>(sums.t_u), none + group_sum<G>(sums.t_v), none + group_sum<G>(sums.t_uu),
                  none + group_sum<G>(sums.t_uv), none + group_sum<G>(sums.t_vv), none + scene.sigma[2 * n],
                  none + scene.sigma[2 * n + 1], none + scene.rho[n]);
    mu[2 * n] = g.mu_y[0], mu[2 * n + 1] = g.mu_x[0];
    sigma[2 * n] = g.sigma_y[0], sigma[2 * n + 1] = g.sigma_x[0];
    rho[n] = g.rho[0];
    for (int c = 0; c < C; ++c) color[n * C + c] = group_sum<G>(sums.w_g[c]);
  }
}

EXPORT void boxes_1(const Scene* scene, int32_t* out) { write_boxes<1>(*scene, out); }
EXPORT void boxes_16(const Scene* scene, int32_t* out) { write_boxes<16>(*scene, out); }

// Named by rows and columns; the first is what a warp draws.
EXPORT void draw_8x8(const Scene* scene, int32_t bin, float* out) { draw<Geometry<32, 8, 2>>(*scene, bin, out); }
EXPORT void draw_8x16(const Scene* scene, int32_t bin, float* out) { draw<Geometry<16, 16, 8>>(*scene, bin, out); }
EXPORT void draw_1x4(const Scene* scene, int32_t bin, float* out) { draw<Geometry<4, 4, 1>>(*scene, bin, out); }

#define GATHER(G)                                                                                                \
  EXPORT void gather_##G(const Scene* scene, const float* upstream, int32_t row_stride, float* mu, float* sigma, \
                         float* rho, float* color) {                                                             \
    gather_all<G>(*scene, upstream, row_stride, mu, sigma, rho, color);                                          \
  }
GATHER(4)
GATHER(8)
GATHER(16)
GATHER(32)
