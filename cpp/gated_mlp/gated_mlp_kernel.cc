// Kernels only; compiled once per CPU target. Built without contraction: a product that is added
// goes through MulAdd, so that every tile shape rounds alike.
#include "cpp/gated_mlp/gated_mlp_kernel.h"

#include "cpp/gated_mlp/formats.h"

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

// Weight rows fetched ahead where few tiles share a panel, also past its end into the next: with 16
// rows of x the weights come from the L3 cache and this is worth a fifth (bench_gated_mlp).
constexpr std::int64_t kPrefetchRows = 32;
// From this many tiles of rows on, they fetch the next panel between them, each its share, and find
// their own in the L2 cache.
constexpr std::int64_t kTilesToFetchPanel = 4;

// exp(x) for x <= 0 or NaN. x = n ln2 + r, exp(r) = 1 + r + r^2 q(r) with a minimax q of degree 4
// (relative error 3.7e-9 on |r| <= ln2 / 2). ln2 is split so that n * kLn2High is exact. The two
// scale steps round subnormal results once, as the one of AVX-512 does.
inline Vec ExpOfNegative(Vec x) {
  const Vec shift = Broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vec lowest = Broadcast(-104.0f);     // exp(-104) rounds to 0
  x = Larger(lowest, x);
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
#if defined(__AVX512F__)
  return _mm512_scalef_ps(p, n);
#else
  const IntVec exponent = reinterpret_cast<IntVec>(shifted) - reinterpret_cast<IntVec>(shift);
  const IntVec half = exponent >> 1;
  const Vec scale_a = reinterpret_cast<Vec>((half + 127) << 23);
  const Vec scale_b = reinterpret_cast<Vec>((exponent - half + 127) << 23);
  return p * scale_a * scale_b;
#endif
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
  const DenseArgs& args;
  std::int64_t row;     // first row
  std::int64_t column;  // first column
  const Word* x;        // first row, at group_begin
  const Word* weight;   // row group_begin of the panel, at the first column
  std::int64_t weight_stride;
  const Word* ahead;  // fetched while the first group is multiplied
  std::int64_t ahead_stride;
};

inline Vec LoadInit(const Tile& t, int r, int v) {
  return Load(t.args.init + (t.row + r) * t.args.init_stride + t.column + v * kLanes);
}

// Where the accumulator of row r and vector v starts, by its type.
inline void Begin(const Tile& t, int r, int v, Vec& sum) { sum = LoadInit(t, r, v); }
inline void Begin(const Tile& t, int r, int v, IntVec& sum) {
  sum = LoadWords(t.args.column_sums + t.column + v * kLanes) *
        BroadcastInt(-t.args.rows[t.row + r].zero);
}

// s of DenseArgs from what the accumulator ends as.
inline Vec End(const Tile&, int, int, Vec sum) { return sum; }
inline Vec End(const Tile& t, int r, int v, IntVec sum) {
  const Vec scale =
      Broadcast(t.args.rows[t.row + r].scale) * Load(t.args.column_scales + t.column + v * kLanes);
  return MulAdd(ToFloat(sum), scale, LoadInit(t, r, v));
}

// Where a tile of y goes, from its first element on. A copy of what DenseArgs says: the compiler
// has to read DenseArgs again behind every store of a float.
struct Target {
  explicit Target(const Tile& t)
      : hidden(At(t, t.args.hidden, t.args.hidden_stride)),
        hidden_stride(t.args.hidden_stride),
        addend(At(t, t.args.addend, t.args.addend_stride)),
        addend_stride(t.args.addend_stride),
        y(t.args.y + t.row * t.args.y_stride + t.column),
        y_stride(t.args.y_stride),
        columns(t.args.y_columns - t.column) {}
  static const float* At(const Tile& t, const float* base, std::int64_t stride) {
    return base == nullptr ? nullptr : base + t.row * stride + t.column;
  }
  const float* hidden;
  std::int64_t hidden_stride;
  const float* addend;
  std::int64_t addend_stride;
  float* y;
  std::int64_t y_stride;
  std::int64_t columns;
};

// One vector of y from its s. Full and partial vectors go through the same arithmetic.
template <Epilogue kEpilogue, bool kFull>
inline void Finish(const Target& to, int r, int v, Vec s) {
  const std::int64_t column = v * kLanes;
  const std::int64_t count = to.columns - column;
  const auto load = [&](const float* p) { return kFull ? Load(p) : LoadPart(p, count); };
  if (kEpilogue == Epilogue::kRelu) s = Larger(Broadcast(0.0f), s);
  if (kEpilogue == Epilogue::kGate)
    s = load(to.hidden + r * to.hidden_stride + column) * SigmoidOf(s);
  if (kEpilogue == Epilogue::kCross)
    s = MulAdd(load(to.hidden + r * to.hidden_stride + column), s,
               load(to.addend + r * to.addend_stride + column));
  float* y = to.y + r * to.y_stride + column;
  if (kFull)
    Store(y, s);
  else
    StorePart(y, s, count);
}

// The columns of y end in few tiles, so those that they end in get short code instead of fast.
template <Epilogue kEpilogue, int kRows, int kVecs>
inline void FinishTile(const Tile& t, const Vec (&s)[kRows][kVecs]) {
  const Target to(t);
  if (to.columns >= kVecs * kLanes) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) Finish<kEpilogue, true>(to, r, v, s[r][v]);
    return;
  }
  Vec copy[kRows * kVecs];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) copy[r * kVecs + v] = s[r][v];
#pragma GCC unroll 1
  for (int i = 0; i < kRows * kVecs; ++i) {
    const int r = i / kVecs;
    const int v = i % kVecs;
    if ((v + 1) * kLanes <= to.columns)
      Finish<kEpilogue, true>(to, r, v, copy[i]);
    else
      Finish<kEpilogue, false>(to, r, v, copy[i]);
  }
}

template <class Format, int kRows, int kVecs>
inline void RunTile(const Tile& t) {
  const DenseArgs& args = t.args;
  typename Format::Sum sum[kRows][kVecs];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) Begin(t, r, v, sum[r][v]);
  const Word* weight = t.weight;
  const Word* ahead = t.ahead;
  const std::int64_t num_groups = args.group_end - args.group_begin;
  for (std::int64_t k = 0; k < num_groups;
       ++k, weight += t.weight_stride, ahead += t.ahead_stride) {
    typename Format::Weights w[kVecs];
    if (kRows > 1 || Format::kFetchForOneRow) {
#pragma GCC unroll 8
      for (int column = 0; column < kVecs * kLanes; column += kColumnAlign)
        __builtin_prefetch(ahead + column);
    }
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) w[v] = Format::LoadWeights(weight + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const typename Format::Input x = Format::LoadInput(t.x + r * args.x_stride + k);
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) sum[r][v] = Format::Add(sum[r][v], x, w[v]);
    }
  }
  Vec s[kRows][kVecs];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) s[r][v] = End(t, r, v, sum[r][v]);
  switch (args.epilogue) {
    case Epilogue::kStore:
      return FinishTile<Epilogue::kStore, kRows, kVecs>(t, s);
    case Epilogue::kRelu:
      return FinishTile<Epilogue::kRelu, kRows, kVecs>(t, s);
    case Epilogue::kGate:
      return FinishTile<Epilogue::kGate, kRows, kVecs>(t, s);
    case Epilogue::kCross:
      return FinishTile<Epilogue::kCross, kRows, kVecs>(t, s);
  }
}

template <class Format, int kVecs>
inline void RunTileOfRows(const Tile& t, std::int64_t num_rows) {
  switch (num_rows) {
    case 1:
      return RunTile<Format, 1, kVecs>(t);
    case 2:
      return RunTile<Format, 2, kVecs>(t);
    case 3:
      return RunTile<Format, 3, kVecs>(t);
    case 4:
      return RunTile<Format, 4, kVecs>(t);
#if defined(__AVX2__)
    case 5:
      return RunTile<Format, 5, kVecs>(t);
    case 6:
      return RunTile<Format, 6, kVecs>(t);
#endif
    default:
      __builtin_unreachable();
  }
}

// One tile of `num_rows` rows and all columns of a panel that is `width` columns wide.
template <class Format>
inline void RunRows(Tile t, std::int64_t num_rows, std::int64_t width) {
  const std::int64_t end = t.column + width;
  const auto advance = [&](int vecs) {
    t.weight += vecs * kLanes;
    t.column += vecs * kLanes;
    t.ahead += vecs * kLanes;
  };
  if (num_rows == 1 && kRowVecs > kTileVecs)
    for (; t.column + kRowVecs * kLanes <= end; advance(kRowVecs)) RunTile<Format, 1, kRowVecs>(t);
  for (; t.column + kTileVecs * kLanes <= end; advance(kTileVecs))
    RunTileOfRows<Format, kTileVecs>(t, num_rows);
#if defined(__AVX512F__)
  const std::int64_t vecs = (end - t.column) / kLanes;
  if (vecs == 3) RunTileOfRows<Format, 3>(t, num_rows);
  if (vecs == 2) RunTileOfRows<Format, 2>(t, num_rows);
  if (vecs == 1) RunTileOfRows<Format, 1>(t, num_rows);
#endif
}

// Panels outside, rows inside: a panel stays in the L2 cache while all rows pass over it.
template <class Format>
inline void RunDense(const DenseArgs& args) {
  const std::int64_t num_tiles = (args.num_rows + kTileRows - 1) / kTileRows;
  for (std::int64_t first = 0; first < args.padded_out; first += kPanelColumns) {
    const std::int64_t width =
        args.padded_out - first < kPanelColumns ? args.padded_out - first : kPanelColumns;
    const Word* panel =
        static_cast<const Word*>(args.panels) + first * args.num_groups + args.group_begin * width;
    const std::int64_t num_groups = args.group_end - args.group_begin;
    const bool fetch_panel = num_tiles >= kTilesToFetchPanel && first > 0;
    for (std::int64_t tile = 0; tile < num_tiles; ++tile) {
      // Tiles of nearly equal height: a last tile of one row would wait for its own sums.
      const std::int64_t row = tile * args.num_rows / num_tiles;
      const std::int64_t rows = (tile + 1) * args.num_rows / num_tiles - row;
      const Word* x = static_cast<const Word*>(args.x) + row * args.x_stride;
      Tile t{args, row, first, x, panel, width, panel + kPrefetchRows * width, width};
      if (fetch_panel) {
        t.ahead = panel + (args.num_groups + num_groups * tile / num_tiles) * width;
        t.ahead_stride = width / num_tiles;
      }
      RunRows<Format>(t, rows, width);
    }
  }
}

}  // namespace

void DenseFp32(const DenseArgs& args) noexcept { RunDense<Fp32>(args); }
void DenseBf16(const DenseArgs& args) noexcept { RunDense<Bf16>(args); }
void DenseInt8(const DenseArgs& args) noexcept { RunDense<Int8>(args); }

void SigmoidInPlace(float* values, std::int64_t size) noexcept {
  std::int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) Store(values + i, SigmoidOf(Load(values + i)));
  if (i == size) return;
  StorePart(values + i, SigmoidOf(LoadPart(values + i, size - i)), size - i);
}

}  // namespace feedfast::gated_mlp::FEEDFAST_TARGET
