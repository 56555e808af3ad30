// The CPU backend behind a plain C interface. Callers run each phase on as many threads as they like: every one calls
// it with the same arguments and takes tasks off a shared counter. Tasks are cut by sizes alone, so threads change
// nothing in the results.
#include <cstdint>

#include "gaussians.h"

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

constexpr int BLOCK = 64;  // Gaussians prepared at a time
constexpr int SLICE = 8192;  // Gaussians of a task outside the drawing
constexpr int MAX_TABLE_ROWS = 128;
static_assert(BLOCK % LANES == 0 && SLICE % LANES == 0);

#define EXPORT extern "C" __attribute__((visibility("default")))

// Lists of the Gaussians that touch each band of rows; mirrored by `kernels.host`. offsets: (B, bands, slices);
// rows: (B, N), first and last.
struct Lists {
  int32_t bands, band_rows;
  int64_t slices;  // per image
  int64_t* offsets;
  uint32_t* rows;
  int32_t* members;
};

// The parameters of Gaussians, one in each lane.
struct Parameters {
  Floats<LANES> mu_y, mu_x, sigma_y, sigma_x, rho, color_sum;
};

// index: LANES Gaussians of the flattened batch.
KERNEL Parameters read(const Scene& scene, const int64_t* index) {
  Parameters p;
  for (int l = 0; l < LANES; ++l) {
    const int64_t i = index[l];
    p.mu_y[l] = scene.mu[2 * i], p.mu_x[l] = scene.mu[2 * i + 1];
    p.sigma_y[l] = scene.sigma[2 * i], p.sigma_x[l] = scene.sigma[2 * i + 1];
    p.rho[l] = scene.rho[i];
    const float* color = scene.color + i * scene.all_channels;
    float sum = 0.0f;
    for (int c = 0; c < scene.all_channels; ++c) sum += color[c];
    p.color_sum[l] = sum;
  }
  return p;
}

template <int C> struct Block {
  Record<C> records[BLOCK];
  Box boxes[BLOCK];
};

template <int C>
KERNEL void write(Block<C>& block, int at, const Scene& scene, const int64_t* index, const Shapes<LANES>& shapes) {
  for (int l = 0; l < LANES; ++l) {
    Record<C>& record = block.records[at + l];
    record.mu_y = shapes.mu_y[l], record.mu_x = shapes.mu_x[l];
    record.a = shapes.a[l], record.b = shapes.b[l], record.d = shapes.d[l];
    const float* color = scene.color + index[l] * scene.all_channels + scene.first_channel;
    for (int c = 0; c < C; ++c) record.color[c] = color[c];
    block.boxes[at + l] = {Box::pack(shapes.y0[l], shapes.y1[l]), Box::pack(shapes.x0[l], shapes.x1[l])};
  }
}

// ---- lists ----------------------------------------------------------------------------------------------------------

// Rows of every Gaussian, and how many Gaussians of a slice touch each band.
static void count_slice(const Scene& scene, const Lists& lists, int64_t image, int64_t slice) {
  const Limits limits = limits_of(scene, image);
  const int64_t first = image * scene.count, start = slice * SLICE;
  const int64_t stop = start + SLICE < scene.count ? start + SLICE : scene.count;
  int64_t* counts = lists.offsets + (image * lists.bands) * lists.slices + slice;
  for (int32_t band = 0; band < lists.bands; ++band) counts[band * lists.slices] = 0;
  for (int64_t i = start; i < stop; i += LANES) {
    int64_t index[LANES];
    for (int l = 0; l < LANES; ++l) index[l] = first + (i + l < stop ? i + l : stop - 1);
    const Parameters p = read(scene, index);
    const Shapes<LANES> s = prepare<LANES>(p.mu_y, p.mu_x, p.sigma_y, p.sigma_x, p.rho, p.color_sum, limits);
    for (int l = 0; l < LANES && i + l < stop; ++l) {
      lists.rows[first + i + l] = Box::pack(s.y0[l], s.y1[l]);
      if (s.y0[l] > s.y1[l]) continue;
      for (int band = s.y0[l] / lists.band_rows; band <= s.y1[l] / lists.band_rows; ++band)
        ++counts[band * lists.slices];
    }
  }
}

static void fill_slice(const Scene& scene, const Lists& lists, int64_t image, int64_t slice) {
  const int64_t start = slice * SLICE;
  const int64_t stop = start + SLICE < scene.count ? start + SLICE : scene.count;
  int64_t* offsets = lists.offsets + (image * lists.bands) * lists.slices + slice;
  for (int64_t i = start; i < stop; ++i) {
    const Box box = {lists.rows[image * scene.count + i], 0};
    if (box.y0() > box.y1()) continue;
    for (int band = box.y0() / lists.band_rows; band <= box.y1() / lists.band_rows; ++band)
      lists.members[offsets[band * lists.slices]++] = (int32_t)i;
  }
}

// The rows y0 .. y1 of a Gaussian, and the weights in the column of lanes that was entered last: computing them in
// a loop of their own leaves enough registers to both loops.
struct RowTable {
  int y0;
  float by[MAX_TABLE_ROWS + LANES], v[MAX_TABLE_ROWS + LANES], minus_vv[MAX_TABLE_ROWS + LANES];
  Floats<LANES> column[MAX_TABLE_ROWS];

  KERNEL Row operator()(int y) const { return {by[y - y0], v[y - y0], minus_vv[y - y0]}; }
  template <int G> KERNEL void enter_column(Floats<G> u0, int first, int last) {
    for (int r = 0; r <= last - first; ++r) column[r] = weight(by[r] + u0, broadcast<G>(minus_vv[r]));
  }
  template <int G> KERNEL Floats<G> weights(const Row&, int y, Floats<G>) const { return column[y - y0]; }
  template <int C> KERNEL void fill(const Record<C>& g, int first, int last) {
    y0 = first;
    for (int r = 0; r <= last - first; r += LANES) {
      const Floats<LANES> dy = to_float(first + r + lane_index<LANES>()) - g.mu_y, own = g.d * dy;
      store(by + r, g.b * dy);
      store(v + r, own);
      store(minus_vv + r, -own * own);
    }
  }
};

// ---- drawing --------------------------------------------------------------------------------------------------------

// Room for a band: channels of a row side by side, each with space for a vector that begins in the last column.
static int64_t row_floats(int32_t width) { return (width + 2 * LANES - 1) / LANES * LANES; }

// Adds a Gaussian to rows y0 .. y1 of a band whose first row is `top`.
template <int C>
KERNEL void add_rows(const Record<C>& g, const Box& box, int y0, int y1, int top, float* band, int64_t stride,
                     RowTable& rows) {
  rows.fill(g, y0, y1);
  for (int x = box.x0(); x <= box.x1(); x += LANES) {
    const Floats<LANES> u0 = column_term<LANES, C>(g, x + lane_index<LANES>(), box.x1());
    float* to = band + (y0 - top) * C * stride + x;
    for (int y = y0; y <= y1; ++y, to += C * stride) {
      const Row row = rows(y);
      const Floats<LANES> w = weight(row.by + u0, broadcast<LANES>(row.minus_vv));
      UNROLL
      for (int c = 0; c < C; ++c) {
        float* sum = to + c * stride;
        store(sum, fused(w, broadcast<LANES>(g.color[c]), load<LANES>(sum)));
      }
    }
  }
}

// band: (rows, C, row_floats). image: the first of the C channels.
template <int C>
static void draw_band(const Scene& scene, const Lists& lists, int64_t image, int32_t band, float* buffer, float* out) {
  const Limits limits = limits_of(scene, image);
  const int64_t stride = row_floats(scene.width), first = image * scene.count;
  const int top = band * lists.band_rows;
  const int bottom = top + lists.band_rows < scene.height ? top + lists.band_rows : scene.height;
  memset(buffer, 0, sizeof(float) * (bottom - top) * C * stride);
  RowTable rows;
  // Filling the lists moved every offset to the end of its own list, which is where the next one begins.
  const int64_t list = (image * lists.bands + band) * lists.slices;
  const int64_t start = list ? lists.offsets[list - 1] : 0, stop = lists.offsets[list + lists.slices - 1];
  Block<C> block;
  for (int64_t at = start; at < stop; at += BLOCK) {
    const int members = (int)(stop - at < BLOCK ? stop - at : BLOCK);
    for (int m = 0; m < members; m += LANES) {
      int64_t index[LANES];
      for (int l = 0; l < LANES; ++l) index[l] = first + lists.members[m + l < members ? at + m + l : stop - 1];
      const Parameters p = read(scene, index);
      write<C>(block, m, scene, index,
               prepare<LANES>(p.mu_y, p.mu_x, p.sigma_y, p.sigma_x, p.rho, p.color_sum, limits));
    }
    for (int m = 0; m < members; ++m) {
      const Box& box = block.boxes[m];
      const int y0 = box.y0() > top ? box.y0() : top, y1 = box.y1() < bottom - 1 ? box.y1() : bottom - 1;
      add_rows<C>(block.records[m], box, y0, y1, top, buffer, stride, rows);
    }
  }
  for (int c = 0; c < C; ++c)
    for (int y = top; y < bottom; ++y)
      memcpy(out + ((int64_t)c * scene.height + y) * scene.width, buffer + ((y - top) * C + c) * stride,
             sizeof(float) * scene.width);
}

// ---- gradients ------------------------------------------------------------------------------------------------------

struct Outputs {
  float *mu, *sigma, *rho, *color;  // like the inputs
};

// upstream: planar, rows padded to row_stride floats, at least LANES beyond the last pixel.
template <int C>
static void gather_slice(const Scene& scene, int64_t image, int64_t slice, const float* upstream, int32_t row_stride,
                         const Outputs& out) {
  const Limits limits = limits_of(scene, image);
  const int64_t first = image * scene.count, start = slice * SLICE;
  const int64_t stop = start + SLICE < scene.count ? start + SLICE : scene.count;
  const int64_t plane = (int64_t)scene.height * row_stride;
  upstream += (image * scene.all_channels + scene.first_channel) * plane;
  for (int64_t i = start; i < stop; i += LANES) {
    const int members = (int)(stop - i < LANES ? stop - i : LANES);
    int64_t index[LANES];
    for (int l = 0; l < LANES; ++l) index[l] = first + (l < members ? i + l : stop - 1);
    const Parameters p = read(scene, index);
    Block<C> block;
    RowTable rows;
    write<C>(block, 0, scene, index,
             prepare<LANES>(p.mu_y, p.mu_x, p.sigma_y, p.sigma_x, p.rho, p.color_sum, limits));
    Floats<LANES> t_u, t_v, t_uu, t_uv, t_vv;
    for (int l = 0; l < members; ++l) {
      const Record<C>& record = block.records[l];
      const Box& box = block.boxes[l];
      Sums<LANES, C> sums = {};
      for (int y0 = box.y0(); y0 <= box.y1(); y0 += MAX_TABLE_ROWS) {
        const int y1 = y0 + MAX_TABLE_ROWS <= box.y1() ? y0 + MAX_TABLE_ROWS - 1 : box.y1();
        rows.fill(record, y0, y1);
        gather(sums, record, box, y0, y1, rows, upstream, row_stride, plane);
      }
      t_u[l] = group_sum<LANES>(sums.t_u), t_v[l] = group_sum<LANES>(sums.t_v);
      t_uu[l] = group_sum<LANES>(sums.t_uu), t_uv[l] = group_sum<LANES>(sums.t_uv);
      t_vv[l] = group_sum<LANES>(sums.t_vv);
      float* color = out.color + index[l] * scene.all_channels + scene.first_channel;
      for (int c = 0; c < C; ++c) color[c] = group_sum<LANES>(sums.w_g[c]);
    }
    const Gradients<LANES> g = finish<LANES>(t_u, t_v, t_uu, t_uv, t_vv, p.sigma_y, p.sigma_x, p.rho);
    for (int l = 0; l < members; ++l) {
      const Box& box = block.boxes[l];
      if (box.y0() > box.y1()) continue;  // its gradients are 0, and its parameters may not be finite
      const int64_t n = index[l];
      out.mu[2 * n] += g.mu_y[l], out.mu[2 * n + 1] += g.mu_x[l];
      out.sigma[2 * n] += g.sigma_y[l], out.sigma[2 * n + 1] += g.sigma_x[l];
      out.rho[n] += g.rho[l];
    }
  }
}

// ---- interface ------------------------------------------------------------------------------------------------------

static bool take(int64_t* next, int64_t tasks, int64_t* task) {
  *task = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
  return *task < tasks;
}

// Calls run(std::integral_constant<C>) for the number of channels.
#define FOR_CHANNELS(channels, call) \
  switch (channels) {                \
    case 1: { constexpr int C = 1; call; break; } \
    case 2: { constexpr int C = 2; call; break; } \
    case 3: { constexpr int C = 3; call; break; } \
    case 4: { constexpr int C = 4; call; break; } \
  }

// A number made of the sources, given on the command line: a library built from others is not ours.
EXPORT int asrbench_abi() { return ASRBENCH_ABI; }
EXPORT int asrbench_lanes() { return LANES; }
EXPORT int64_t asrbench_slices(int64_t count) { return (count + SLICE - 1) / SLICE; }
EXPORT int64_t asrbench_buffer_floats(int32_t band_rows, int32_t channels, int32_t width) {
  return band_rows * channels * row_floats(width);
}

EXPORT void asrbench_count(const Scene* scene, const Lists* lists, int64_t* next) {
  for (int64_t task; take(next, scene->batch * lists->slices, &task);)
    count_slice(*scene, *lists, task / lists->slices, task % lists->slices);
}

// Turns counts into offsets and returns the number of entries.
EXPORT int64_t asrbench_accumulate(const Scene* scene, const Lists* lists) {
  int64_t sum = 0, n = scene->batch * lists->bands * lists->slices;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t count = lists->offsets[i];
    lists->offsets[i] = sum;
    sum += count;
  }
  return sum;
}

EXPORT void asrbench_fill(const Scene* scene, const Lists* lists, int64_t* next) {
  for (int64_t task; take(next, scene->batch * lists->slices, &task);)
    fill_slice(*scene, *lists, task / lists->slices, task % lists->slices);
}

EXPORT void asrbench_draw(const Scene* scene, const Lists* lists, float* buffer, float* out, int64_t* next) {
  const int64_t plane = (int64_t)scene->height * scene->width;
  for (int64_t task; take(next, scene->batch * lists->bands, &task);) {
    const int64_t image = task / lists->bands;
    float* first = out + (image * scene->all_channels + scene->first_channel) * plane;
    FOR_CHANNELS(scene->channels, draw_band<C>(*scene, *lists, image, task % lists->bands, buffer, first))
  }
}

EXPORT void asrbench_gather(const Scene* scene, const float* upstream, int32_t row_stride, const Outputs* out,
                            int64_t* next) {
  const int64_t slices = asrbench_slices(scene->count);
  for (int64_t task; take(next, scene->batch * slices, &task);)
    FOR_CHANNELS(scene->channels,
                 gather_slice<C>(*scene, task / slices, task % slices, upstream, row_stride, *out))
}
