// Kernels only; compiled once per CPU target. Built without contraction: a product that is added
// goes through MulAdd, so that every tile shape rounds alike.
#include "cpp/gated_mlp/gated_mlp_kernel.h"

#include "cpp/gated_mlp/vector.h"

namespace feedfast::gated_mlp::FEEDFAST_TARGET {
namespace {

// Rows and vectors of the largest tile, and the vectors of a tile of one row, which needs more
// columns at a time to keep the FMA units busy.
#if defined(__AVX512F__)
constexpr int kTileRows = 6;  // 6 x 4 sums, 4 vectors of weights and an input of 32 registers
constexpr int kTileVecs = 4;
constexpr int kRowVecs = 4;
#elif defined(__AVX2__)
constexpr int kTileRows = 6;  // 6 x 2 sums, 2 vectors of weights and an input of 16 registers
constexpr int kTileVecs = 2;
constexpr int kRowVecs = 8;
#else
constexpr int kTileRows = 4;  // 4 x 2 sums, 2 vectors of weights, an input and a product of 16
constexpr int kTileVecs = 2;
constexpr int kRowVecs = 8;
#endif

// Weight rows fetched ahead, also past the panel's end into the next: with 16 rows of x the weights
// come from the L3 cache and this is worth a fifth, with 512 a twentieth (bench_gated_mlp).
constexpr std::int64_t kPrefetchRows = 32;

// exp(x) for x <= 0 or NaN. x = n ln2 + r, exp(r) = 1 + r + r^2 q(r) with a minimax q of degree 4
// (relative error 3.7e-9 on |r| <= ln2 / 2). ln2 is split so that n * kLn2High is exact. The two
// scale steps round subnormal results once.
inline Vec ExpOfNegative(Vec x) {
  const Vec shift = Broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vec lowest = Broadcast(-104.0f);     // exp(-104) rounds to 0
  x = x < lowest ? lowest : x;
  const Vec shifted = MulAdd(x, Broadcast(1.44269504f), shift);
  const Vec n = shifted - shift;
  Vec r = MulAdd(n, Broadcast(-0.693359375f), x);
  r = MulAdd(n, Broadcast(2.12194440e-4f), r);
  Vec q = Broadcast(0.0013814540579915047f);
  q = MulAdd(q, r, Broadcast(0.00836874544620514f));
  q = MulAdd(q, r, Broadcast(0.04166838899254799f));
  q = MulAdd(q, r, Broadcast(0.1666652113199234f));
  q = MulAdd(q, r, Broadcast(0.4999999403953552f));
  const Vec p = MulAdd(r * r, q, r) + Broadcast(1.0f);
  const IntVec exponent = reinterpret_cast<IntVec>(shifted) - reinterpret_cast<IntVec>(shift);
  const IntVec half = exponent >> 1;
  const Vec scale_a = reinterpret_cast<Vec>((half + 127) << 23);
  const Vec scale_b = reinterpret_cast<Vec>((exponent - half + 127) << 23);
  return p * scale_a * scale_b;
}

// With e = exp(-|x|): e / (1 + e) for x < 0, 1 / (1 + e) for the rest. Neither form cancels.
inline Vec SigmoidOf(Vec x) {
  const IntVec sign = reinterpret_cast<IntVec>(Broadcast(-0.0f));
  const Vec e = ExpOfNegative(reinterpret_cast<Vec>(reinterpret_cast<IntVec>(x) | sign));
  const Vec one = Broadcast(1.0f);
  const Vec zero = Broadcast(0.0f);
  return (x < zero ? e : one) / (one + e);
}

struct Tile {
  const float* x;  // first row, at k_begin
  std::int64_t x_stride;
  const float* weight;  // row k_begin of the panel, at the tile's first column
  std::int64_t weight_stride;
  std::int64_t num_k;
  const float* init;
  Epilogue epilogue;
  const float* hidden;
  std::int64_t hidden_stride;
  float* y;
  std::int64_t y_stride;
  std::int64_t y_columns;  // columns of y from the tile's first on; may be below 1
};

inline void StorePart(float* p, Vec v, std::int64_t count) {
  for (int i = 0; i < kLanes; ++i)
    if (i < count) p[i] = v[i];
}

template <int kRows, int kVecs>
inline void RunTile(const Tile& t) {
  Vec sum[kRows][kVecs];
#pragma GCC unroll 8
  for (int v = 0; v < kVecs; ++v) {
    const Vec init = Load(t.init + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) sum[r][v] = init;
  }
  const float* weight = t.weight;
  for (std::int64_t k = 0; k < t.num_k; ++k, weight += t.weight_stride) {
    Vec w[kVecs];
#pragma GCC unroll 8
    for (int column = 0; column < kVecs * kLanes; column += kColumnAlign)
      __builtin_prefetch(weight + kPrefetchRows * t.weight_stride + column);
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) w[v] = Load(weight + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec x = Broadcast(t.x[r * t.x_stride + k]);
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) sum[r][v] = MulAdd(x, w[v], sum[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVecs; ++v) {
      Vec s = sum[r][v];
      const Vec zero = Broadcast(0.0f);
      if (t.epilogue == Epilogue::kRelu) s = s < zero ? zero : s;
      if (t.epilogue == Epilogue::kGate)
        s = Load(t.hidden + r * t.hidden_stride + v * kLanes) * SigmoidOf(s);
      float* y = t.y + r * t.y_stride + v * kLanes;
      if ((v + 1) * kLanes <= t.y_columns)
        Store(y, s);
      else
        StorePart(y, s, t.y_columns - v * kLanes);
    }
  }
}

template <int kVecs>
inline void RunTileOfRows(const Tile& t, std::int64_t num_rows) {
  switch (num_rows) {
    case 1:
      return RunTile<1, kVecs>(t);
    case 2:
      return RunTile<2, kVecs>(t);
    case 3:
      return RunTile<3, kVecs>(t);
    case 4:
      return RunTile<4, kVecs>(t);
#if defined(__AVX2__)
    case 5:
      return RunTile<5, kVecs>(t);
    case 6:
      return RunTile<6, kVecs>(t);
#endif
    default:
      __builtin_unreachable();
  }
}

// One tile of `num_rows` rows and all columns of a panel that is `width` columns wide.
inline void RunRows(Tile t, std::int64_t num_rows, std::int64_t width) {
  std::int64_t column = 0;
  const auto advance = [&](int vecs) {
    const int columns = vecs * kLanes;
    t.weight += columns;
    t.init += columns;
    t.hidden += columns;
    t.y += columns;
    t.y_columns -= columns;
    column += columns;
  };
  if (num_rows == 1 && kRowVecs > kTileVecs)
    for (; column + kRowVecs * kLanes <= width; advance(kRowVecs)) RunTile<1, kRowVecs>(t);
  for (; column + kTileVecs * kLanes <= width; advance(kTileVecs))
    RunTileOfRows<kTileVecs>(t, num_rows);
#if defined(__AVX512F__)
  const std::int64_t vecs = (width - column) / kLanes;
  if (vecs == 3) RunTileOfRows<3>(t, num_rows);
  if (vecs == 2) RunTileOfRows<2>(t, num_rows);
  if (vecs == 1) RunTileOfRows<1>(t, num_rows);
#endif
}

}  // namespace

// Panels outside, rows inside: a panel stays in the L2 cache while all rows pass over it.
void Dense(const DenseArgs& args) noexcept {
  const std::int64_t num_tiles = (args.num_rows + kTileRows - 1) / kTileRows;
  for (std::int64_t first = 0; first < args.padded_out; first += kPanelColumns) {
    const std::int64_t width =
        args.padded_out - first < kPanelColumns ? args.padded_out - first : kPanelColumns;
    const float* panel = args.panels + first * args.num_k + args.k_begin * width;
    for (std::int64_t tile = 0; tile < num_tiles; ++tile) {
      // Tiles of nearly equal height: a last tile of one row would wait for its own sums.
      const std::int64_t row = tile * args.num_rows / num_tiles;
      const std::int64_t rows = (tile + 1) * args.num_rows / num_tiles - row;
      RunRows({args.x + row * args.x_stride, args.x_stride, panel, width, args.k_end - args.k_begin,
               args.init + first, args.epilogue, args.hidden + row * args.hidden_stride + first,
               args.hidden_stride, args.y + row * args.y_stride + first, args.y_stride,
               args.y_columns - first},
              rows, width);
    }
  }
}

void SigmoidInPlace(float* values, std::int64_t size) noexcept {
  std::int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) Store(values + i, SigmoidOf(Load(values + i)));
  if (i == size) return;
  Vec tail = Broadcast(0.0f);
  for (int lane = 0; lane < kLanes; ++lane)
    if (i + lane < size) tail[lane] = values[i + lane];
  StorePart(values + i, SigmoidOf(tail), size - i);
}

}  // namespace feedfast::gated_mlp::FEEDFAST_TARGET
