// The additive 2D Gaussian rasterizer: what one Gaussian is, what it adds to pixels, what pixels send back to it.
//
// With dx, dy from the Gaussian's centre in pixels and q = 1 / sqrt((1 - rho)(1 + rho)) the exponent of its weight,
// -((dx/sx - rho dy/sy)^2 q^2 + (dy/sy)^2) / 2, is -(u^2 + v^2) ln 2 with
//
//   u = a dx + b dy    a =  S q / sx    b = -S rho q / sy    S = sqrt(log2(e) / 2)
//   v = d dy           d =  S / sy
//
// A sum of squares cannot cancel, however close |rho| is to 1, and the weight 2^-(u^2 + v^2) cannot exceed 1.
#pragma once

#include "lanes.h"

// What is drawn; mirrored by `kernels.native`. Sums cover `channels` of the channels at a time.
struct Scene {
  const float *mu, *sigma, *rho, *color;  // (B, N, 2), (B, N, 2), (B, N), (B, N, all_channels)
  const int* sizes;                       // (B, 2); null: all images fill the canvas
  const float* windows;                   // (B, 2); null: all have the one below
  long long batch, count;
  int height, width, all_channels, first_channel, channels;
  float window_y, window_x, k;
};

constexpr float S = 0.849321800288f;
constexpr float FARTHEST = 1e16f;  // bound on |u| and |v|, so that their squares are finite
constexpr float MAX_SIDE = 65535.0f;
constexpr float OUTSIDE = 1e9f;  // a value of u whose weight is 0

// What limits the pixels that a Gaussian touches: its image, the window in pixels, and k of the cut-off k sigma.
struct Limits {
  float height, width, window_y, window_x, k;
};

KERNEL Limits limits_of(const Scene& scene, long long image) {
  Limits limits = {(float)scene.height, (float)scene.width, scene.window_y, scene.window_x, scene.k};
  if (scene.sizes) limits.height = (float)scene.sizes[2 * image], limits.width = (float)scene.sizes[2 * image + 1];
  if (scene.windows) limits.window_y = scene.windows[2 * image], limits.window_x = scene.windows[2 * image + 1];
  return limits;
}

// First and last pixel touched, inclusive; first > last: none. Sides are at most 65535, so two of them fit 32 bits.
struct alignas(8) Box {
  unsigned rows, columns;

  KERNEL static unsigned pack(int first, int last) { return (unsigned)first | (unsigned)last << 16; }
  KERNEL int y0() const { return (int)(rows & 0xffff); }
  KERNEL int y1() const { return (int)(rows >> 16); }
  KERNEL int x0() const { return (int)(columns & 0xffff); }
  KERNEL int x1() const { return (int)(columns >> 16); }
};

template <int C> struct alignas(16) Record {
  float mu_y, mu_x, a, b, d, color[C];
};

// G Gaussians, one in each lane.
template <int G> struct Shapes {
  Floats<G> mu_y, mu_x, a, b, d;
  Ints<G> y0, y1, x0, x1;
};

template <int G> struct Span {
  Floats<G> first, last;
};

// Pixels of one axis within reach of the centre. Fusing this would move boxes by a pixel against the specification.
template <int G>
KERNEL Span<G> touched(Floats<G> center, Floats<G> sigma, float window, float side, float k) {
  const Floats<G> reach = smaller(sigma * k, broadcast<G>(window));
  return {larger(round_up(center - reach), broadcast<G>(0.0f)),
          smaller(round_down(center + reach), broadcast<G>(side - 1.0f))};
}

// Gaussians with a parameter that is not finite or out of range touch nothing. color_sum: to see whether it is finite.
template <int G>
KERNEL Shapes<G> prepare(Floats<G> mu_y, Floats<G> mu_x, Floats<G> sigma_y, Floats<G> sigma_x, Floats<G> rho,
                         Floats<G> color_sum, Limits limits) {
  const Floats<G> free = (1.0f - rho) * (1.0f + rho), narrow = smaller(sigma_y, sigma_x);
  const Floats<G> root = square_root(larger(free, broadcast<G>(0.0f)));
  const Floats<G> farthest = (magnitude(mu_y) + magnitude(mu_x) + MAX_SIDE) / (narrow * root);
  const Floats<G> sum = sigma_y + sigma_x + color_sum;
  const Span<G> y = touched<G>(mu_y, sigma_y, limits.window_y, limits.height, limits.k);
  const Span<G> x = touched<G>(mu_x, sigma_x, limits.window_x, limits.width, limits.k);
  const auto hit = (sum - sum == 0.0f) & (farthest < FARTHEST) & (narrow > 0.0f) & (free > 0.0f) &
                   (y.first <= y.last) & (x.first <= x.last);
  const Floats<G> none = broadcast<G>(0.0f), one = broadcast<G>(1.0f);
  const Floats<G> scaled = S / root;
  return {mu_y,
          mu_x,
          scaled / sigma_x,
          -rho * scaled / sigma_y,
          S / sigma_y,
          to_int(select(hit, y.first, one)),
          to_int(select(hit, y.last, none)),
          to_int(select(hit, x.first, one)),
          to_int(select(hit, x.last, none))};
}

template <class F> KERNEL F weight(F u, F minus_vv) { return exp2_negative(fused(-u, u, minus_vv)); }

// u at dy = 0 in the G columns from x on; lanes beyond the box are put where the weight is 0.
template <int G, int C> KERNEL Floats<G> column_term(const Record<C>& g, Ints<G> column, int x1) {
  return select(column <= x1, g.a * (to_float(column) - g.mu_x), broadcast<G>(OUTSIDE));
}

// What the pixels of a row share. Computed where it is needed; the CPU tabulates the rows of a Gaussian instead.
struct Row {
  float by, v, minus_vv;
};
template <int C> struct Rows {
  const Record<C>& g;

  KERNEL Row operator()(int y) const {
    const float dy = (float)y - g.mu_y, v = g.d * dy;
    return {g.b * dy, v, -v * v};
  }
  template <int G> KERNEL void enter_column(Floats<G>, int, int) const {}
  template <int G> KERNEL Floats<G> weights(const Row& row, int, Floats<G> u) const {
    return weight(u, broadcast<G>(row.minus_vv));
  }
};

// How a group of G lanes covers a patch of pixels: `across` lanes side by side, G / across rows of them, `down` times.
template <int lanes_, int across_, int down_> struct Geometry {
  static constexpr int lanes = lanes_, across = across_, step = lanes_ / across_, down = down_;
  static constexpr int width = across_, height = step * down_;
};

// Sums a patch. The group walks the list of Gaussians that may touch it, tests a box per lane, and adds the hits one
// after the other: every pixel is summed in the order of the list, whatever the sizes of patch and list.
template <class P, int C> struct Patch {
  static constexpr int G = P::lanes;
  Floats<G> sum[P::down][C];

  KERNEL void add(const Record<C>& g, const Box& box, int top, int left) {
    const Ints<G> lane = lane_index<G>();
    const Ints<G> column = left + lane % P::across;
    const Floats<G> u0 =
        select(column >= box.x0(), column_term<G, C>(g, column, box.x1()), broadcast<G>(OUTSIDE));
    UNROLL
    for (int r = 0; r < P::down; ++r) {
      const Ints<G> row = top + r * P::step + lane / P::across;
      const Floats<G> dy = to_float(row) - g.mu_y, v = g.d * dy;
      const auto inside = (row >= box.y0()) & (row <= box.y1());
      const Floats<G> w = select(inside, weight(g.b * dy + u0, -v * v), broadcast<G>(0.0f));
      UNROLL
      for (int c = 0; c < C; ++c) sum[r][c] = fused(w, broadcast<G>(g.color[c]), sum[r][c]);
    }
  }

  // members: Gaussians of the list in ascending order.
  KERNEL void add_list(const int* members, int count, const Record<C>* records, const Box* boxes, int top, int left) {
    const int bottom = top + P::height - 1, right = left + P::width - 1;
    for (int start = 0; start < count; start += G) {
      const auto listed = start + lane_index<G>() < count;
      const Ints<G> member = load<G>(members + start, listed);
      unsigned hits = ballot(listed & test_lanes(member, [&](int index) {
                               const Box box = boxes[index];
                               return box.y0() <= bottom && box.y1() >= top && box.x0() <= right && box.x1() >= left;
                             }));
      while (hits) {
        const int index = pick(member, lowest_bit(hits));
        hits &= hits - 1;
        add(records[index], boxes[index], top, left);
      }
    }
  }
};

// What the pixels of its box send back to a Gaussian, summed over them. w: weight; t: w times the sum over channels of
// upstream gradient times color. Moments of the whitened u and v: those of dx and dy cancel when |rho| is near 1.
template <int G, int C> struct Sums {
  Floats<G> t_u, t_v, t_uu, t_uv, t_vv, w_g[C];
};

// Adds the pixels of the box's rows y0 .. y1. rows: gives the Row of a y and the weights in its pixels. upstream: the
// image's gradient, planar, rows and channels so many floats apart.
template <int G, int C, class RowsOfG>
KERNEL void gather(Sums<G, C>& sums, const Record<C>& g, const Box& box, int y0, int y1, RowsOfG& rows,
                   const float* upstream, int row_stride, long long channel_stride) {
  for (int x = box.x0(); x <= box.x1(); x += G) {
    const Ints<G> column = x + lane_index<G>();
    const auto inside = column <= box.x1();
    const Floats<G> u0 = column_term<G, C>(g, column, box.x1());
    const float* from = upstream + (long long)y0 * row_stride + x;
    rows.template enter_column<G>(u0, y0, y1);
    UNROLL_TWICE
    for (int y = y0; y <= y1; ++y, from += row_stride) {
      const Row row = rows(y);
      const Floats<G> u = row.by + u0, v = broadcast<G>(row.v), w = rows.template weights<G>(row, y, u);
      Floats<G> t = broadcast<G>(0.0f);
      UNROLL
      for (int c = 0; c < C; ++c) {
        const Floats<G> upstream_c = load<G>(from + c * channel_stride, inside);
        sums.w_g[c] = fused(w, upstream_c, sums.w_g[c]);
        t = fused(broadcast<G>(g.color[c]), upstream_c, t);
      }
      t = t * w;
      const Floats<G> t_u = t * u, t_v = t * v;
      sums.t_u += t_u;
      sums.t_v += t_v;
      sums.t_uu = fused(t_u, u, sums.t_uu);
      sums.t_uv = fused(t_u, v, sums.t_uv);
      sums.t_vv = fused(t_v, v, sums.t_vv);
    }
  }
}

template <int G> struct Gradients {
  Floats<G> mu_y, mu_x, sigma_y, sigma_x, rho;
};

// From the moments of G Gaussians, one in each lane, by the chain rule.
template <int G>
KERNEL Gradients<G> finish(Floats<G> t_u, Floats<G> t_v, Floats<G> t_uu, Floats<G> t_uv, Floats<G> t_vv,
                           Floats<G> sigma_y, Floats<G> sigma_x, Floats<G> rho) {
  const Floats<G> q = 1.0f / square_root((1.0f - rho) * (1.0f + rho));
  t_u = t_u / S, t_v = t_v / S;
  t_uu = t_uu / (S * S), t_uv = t_uv / (S * S), t_vv = t_vv / (S * S);
  return {(t_v - rho * q * t_u) / sigma_y, q * t_u / sigma_x, (t_vv - rho * q * t_uv) / sigma_y,
          (t_uu + rho * q * t_uv) / sigma_x, q * t_uv - rho * q * q * t_uu};
}
