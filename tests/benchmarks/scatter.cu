// What one writes first: a thread per Gaussian walks its window and adds to the image with atomics. Only to compare with.
extern "C" __global__ void scatter(const float* mu, const float* sigma, const float* rho, const float* color, int count,
                                   int height, int width, float window_y, float window_x, float* image) {
  const int n = blockIdx.x * blockDim.x + threadIdx.x;
  if (n >= count) return;
  const float y = mu[2 * n], x = mu[2 * n + 1], sy = sigma[2 * n], sx = sigma[2 * n + 1], r = rho[n];
  const int y0 = max(0, (int)ceilf(y - window_y)), y1 = min(height - 1, (int)floorf(y + window_y));
  const int x0 = max(0, (int)ceilf(x - window_x)), x1 = min(width - 1, (int)floorf(x + window_x));
  for (int row = y0; row <= y1; ++row)
    for (int column = x0; column <= x1; ++column) {
      const float b = (row - y) / sy, a = (column - x) / sx, s = a - r * b;
      const float w = expf(-(s * s / ((1 - r) * (1 + r)) + b * b) / 2);
      for (int c = 0; c < 3; ++c) atomicAdd(image + (c * height + row) * width + column, w * color[3 * n + c]);
    }
}
