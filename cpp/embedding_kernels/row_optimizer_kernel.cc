// Compiled once per CPU target: kernels only, everything but the entry points has internal linkage.
#include "cpp/embedding_kernels/row_optimizer_kernel.h"

#include <cstdint>

#include "cpp/embedding_kernels/row_update_vectors.h"

// On the lambda of a loop over vectors.
#define FEEDFAST_INLINE __attribute__((always_inline))

namespace feedfast::embedding_kernels::FEEDFAST_TARGET {
namespace {

// One gradient row: scale * values[0 .. dim).
struct GradientRow {
  const float* values;
  float scale;
};

// Sums kVectors registers of columns from `column` on over the entries of group g; `last` lanes of
// the last register exist.
template <int kVectors>
void SumColumns(const RowGradient& in, std::int64_t g, std::int64_t column, Lanes last,
                float* out) {
  Vector sums[kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) sums[v] = Broadcast(0.0f);
  for (std::uint32_t e = in.offsets[g]; e < in.offsets[g + 1]; ++e) {
    const float* from = in.grad + in.sources[e] * in.dim + column;
    const Vector factor = Broadcast(in.factors == nullptr ? 1.0f : in.factors[e]);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v)
      sums[v] = MultiplyAdd(
          factor, LoadFloats(from + v * kWidth, v + 1 < kVectors ? kAllLanes : last), sums[v]);
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v)
    Store(out + column + v * kWidth, sums[v], v + 1 < kVectors ? kAllLanes : last);
}

void SumRow(const RowGradient& in, std::int64_t g, float* out) {
  std::int64_t column = 0;
  for (; in.dim - column >= 4 * kWidth; column += 4 * kWidth)
    SumColumns<4>(in, g, column, kAllLanes, out);
  for (; in.dim - column > kWidth; column += kWidth) SumColumns<1>(in, g, column, kAllLanes, out);
  if (column < in.dim) SumColumns<1>(in, g, column, FirstLanes(in.dim - column), out);
}

// The gradient of group g: where it lies if it is one row, else summed into `scratch`.
GradientRow RowOf(const RowGradient& in, std::int64_t g, float* scratch) {
  if (in.offsets == nullptr) return {in.grad + g * in.dim, 1.0f};
  const std::uint32_t begin = in.offsets[g];
  if (in.offsets[g + 1] - begin == 1)
    return {in.grad + in.sources[begin] * in.dim, in.factors == nullptr ? 1.0f : in.factors[begin]};
  SumRow(in, g, scratch);
  return {scratch, 1.0f};
}

float SumOfSquares(GradientRow row, std::int64_t dim) {
  Vector sums = Broadcast(0.0f);
  const Vector scale = Broadcast(row.scale);
  ForEachVector(dim, [&](std::int64_t column, Lanes lanes) FEEDFAST_INLINE {
    const Vector x = LoadFloats(row.values + column, lanes) * scale;
    sums = MultiplyAdd(x, x, sums);
  });
  return HorizontalSum(sums);
}

// Inlined before GCC can conclude that a function of prefetches alone has no effect, and drop
// calls.
__attribute__((always_inline)) inline void PrefetchForWriting(const void* begin,
                                                              std::int64_t bytes) {
  constexpr std::uintptr_t kLine = 64;
  const auto* first = static_cast<const std::uint8_t*>(begin);
  const std::uint8_t* line = first - (reinterpret_cast<std::uintptr_t>(first) & (kLine - 1));
  for (; line < first + bytes; line += kLine) __builtin_prefetch(line, 1);
}

template <typename Rows, UpdateRule rule, bool kStochastic>
class Updater {
 public:
  explicit Updater(const ApplyRowsArgs& args) : args_(args) {}

  void Run() {
    const std::int64_t ahead = args_.prefetch_rows;
    for (std::int64_t g = args_.begin; g < args_.end && g < args_.begin + ahead; ++g) Prefetch(g);
    for (std::int64_t first = args_.begin; first < args_.end; first += kUpdateRows) {
      const std::int64_t left = args_.end - first;
      UpdateRows(first, left < kUpdateRows ? left : kUpdateRows);
    }
  }

 private:
  static constexpr std::int64_t kElementBytes = Rows::kElementBits / 8;
  static constexpr bool kRowwise =
      rule == UpdateRule::kRowwiseAdagrad || rule == UpdateRule::kRowwiseAdam;
  static constexpr bool kAdamLike = rule == UpdateRule::kAdam || rule == UpdateRule::kRowwiseAdam;

  std::uint8_t* WeightsOf(std::int64_t row) const {
    return static_cast<std::uint8_t*>(args_.table.data) + row * args_.table.dim * kElementBytes;
  }

  __attribute__((always_inline)) void Prefetch(std::int64_t g) const {
    const std::int64_t row = args_.gradient.rows[g];
    const std::int64_t dim = args_.table.dim;
    PrefetchForWriting(WeightsOf(row), dim * kElementBytes);
    if constexpr (rule == UpdateRule::kAdagrad || kAdamLike)
      PrefetchForWriting(args_.table.states[0] + row * dim, dim * 4);
    if constexpr (rule == UpdateRule::kRowwiseAdagrad)
      __builtin_prefetch(args_.table.states[0] + row, 1);
    if constexpr (rule == UpdateRule::kAdam)
      PrefetchForWriting(args_.table.states[1] + row * dim, dim * 4);
    if constexpr (rule == UpdateRule::kRowwiseAdam)
      __builtin_prefetch(args_.table.states[1] + row, 1);
  }

  // The gradient that the rule sees, from column `column` on, where the weights are w.
  __attribute__((always_inline)) Vector Gradient(GradientRow row, float clip, std::int64_t column,
                                                 Lanes lanes, Vector w) const {
    Vector g = LoadFloats(row.values + column, lanes) * row.scale * clip;
    if (args_.clipping == GradientClipping::kValue) {
      const Vector most = Broadcast(args_.max_gradient);
      g = g > most ? most : g;
      g = g < -most ? -most : g;
    }
    return args_.l2_decay == 0.0f ? g : MultiplyAdd(Broadcast(args_.l2_decay), w, g);
  }

  // Updates the groups [first, first + count) in two passes: what a row needs to know of all of its
  // gradient, then the rows.
  void UpdateRows(std::int64_t first, std::int64_t count) const {
    const std::int64_t dim = args_.table.dim;
    GradientRow from[kUpdateRows];
    float clips[kUpdateRows];
    float squares[kUpdateRows] = {};
    float rates[kUpdateRows];
    for (std::int64_t i = 0; i < count; ++i) {
      from[i] = RowOf(args_.gradient, first + i, args_.scratch + i * dim);
      clips[i] = args_.norm_scale;
      rates[i] = args_.rate;
      if (args_.clipping == GradientClipping::kRowNorm) {
        const float norm = ::sqrtf(SumOfSquares(from[i], dim));
        if (norm > args_.max_gradient) clips[i] = args_.max_gradient / norm;
      }
      if constexpr (kRowwise)
        squares[i] = args_.gradient.row_squares != nullptr
                         ? args_.gradient.row_squares[first + i]
                         : SumOfGradientSquares(from[i], clips[i], args_.gradient.rows[first + i]);
    }
    if constexpr (kRowwise) {
      constexpr int kSlot = rule == UpdateRule::kRowwiseAdagrad ? 0 : 1;
      float* states = args_.table.states[kSlot];
      float state[kUpdateRows] = {};
      for (std::int64_t i = 0; i < count; ++i) state[i] = states[args_.gradient.rows[first + i]];
      const auto columns =
          static_cast<float>(args_.gradient.row_squares != nullptr ? args_.gradient.row_dim : dim);
      for (std::int64_t i = 0; i < kUpdateRows; ++i) {
        const float mean = squares[i] / columns;
        state[i] = rule == UpdateRule::kRowwiseAdagrad
                       ? state[i] + mean
                       : args_.beta2 * state[i] + (1.0f - args_.beta2) * mean;
      }
      for (std::int64_t i = 0; i < count; ++i) {
        states[args_.gradient.rows[first + i]] = state[i];
        rates[i] /= ::sqrtf(state[i]) + args_.epsilon;
      }
    }
    for (std::int64_t i = 0; i < count; ++i) {
      if (first + i + args_.prefetch_rows < args_.end) Prefetch(first + i + args_.prefetch_rows);
      UpdateRow(args_.gradient.rows[first + i], from[i], clips[i], rates[i]);
    }
  }

  float SumOfGradientSquares(GradientRow from, float clip, std::int64_t row) const {
    const std::uint8_t* weights = WeightsOf(row);
    Vector squares = Broadcast(0.0f);
    ForEachVector(args_.table.dim, [&](std::int64_t column, Lanes lanes) FEEDFAST_INLINE {
      const Vector w = args_.l2_decay == 0.0f ? Broadcast(0.0f)
                                              : Rows::Load(weights + column * kElementBytes, lanes);
      const Vector x = Gradient(from, clip, column, lanes, w);
      squares = MultiplyAdd(x, x, squares);
    });
    return HorizontalSum(squares);
  }

  void UpdateRow(std::int64_t row, GradientRow from, float clip, float rate) const {
    const std::int64_t dim = args_.table.dim;
    std::uint8_t* weights = WeightsOf(row);
    std::uint64_t key = 0;
    if constexpr (kStochastic)
      key = MixBits(args_.key +
                    static_cast<std::uint64_t>(args_.first_row + row) * 0x9e3779b97f4a7c15u);
    ForEachVector(dim, [&](std::int64_t column, Lanes lanes) FEEDFAST_INLINE {
      std::uint8_t* at = weights + column * kElementBytes;
      Vector w = Rows::Load(at, lanes);
      Vector direction = Gradient(from, clip, column, lanes, w);
      Vector rates = Broadcast(rate);
      if constexpr (rule == UpdateRule::kAdagrad) {
        float* state = args_.table.states[0] + row * dim + column;
        const Vector a = MultiplyAdd(direction, direction, LoadFloats(state, lanes));
        Store(state, a, lanes);
        rates = rates / (SquareRoot(a) + args_.epsilon);
      }
      if constexpr (rule == UpdateRule::kAdam) {
        float* state = args_.table.states[1] + row * dim + column;
        const Vector v = MultiplyAdd((1.0f - args_.beta2) * direction, direction,
                                     args_.beta2 * LoadFloats(state, lanes));
        Store(state, v, lanes);
        rates = rates / (SquareRoot(v) + args_.epsilon);
      }
      if constexpr (kAdamLike) {
        float* state = args_.table.states[0] + row * dim + column;
        direction = MultiplyAdd(Broadcast(1.0f - args_.beta1), direction,
                                args_.beta1 * LoadFloats(state, lanes));
        Store(state, direction, lanes);
      }
      w = MultiplyAdd(-rates, direction, w * args_.keep_weight);
      Rows::template Write<kStochastic>(at, w, lanes, key, args_.first_column + column);
    });
  }

  const ApplyRowsArgs args_;
};

template <typename Rows, bool kStochastic>
void ApplyRule(const ApplyRowsArgs& args) {
  switch (args.rule) {
    case UpdateRule::kSgd:
      return Updater<Rows, UpdateRule::kSgd, kStochastic>(args).Run();
    case UpdateRule::kAdagrad:
      return Updater<Rows, UpdateRule::kAdagrad, kStochastic>(args).Run();
    case UpdateRule::kRowwiseAdagrad:
      return Updater<Rows, UpdateRule::kRowwiseAdagrad, kStochastic>(args).Run();
    case UpdateRule::kAdam:
      return Updater<Rows, UpdateRule::kAdam, kStochastic>(args).Run();
    case UpdateRule::kRowwiseAdam:
      return Updater<Rows, UpdateRule::kRowwiseAdam, kStochastic>(args).Run();
  }
}

template <typename Rows>
void ApplyRounded(const ApplyRowsArgs& args) {
  if (args.stochastic_rounding) return ApplyRule<Rows, true>(args);
  ApplyRule<Rows, false>(args);
}

}  // namespace

void SumRows(const SumRowsArgs& args) noexcept {
  const RowGradient& in = args.gradient;
  for (std::int64_t g = args.begin; g < args.end; ++g) SumRow(in, g, args.out + g * in.dim);
}

double SumSquaresOfRows(const SumRowsArgs& args) noexcept {
  double sum = 0.0;
  for (std::int64_t g = args.begin; g < args.end; ++g)
    sum += SumOfSquares(RowOf(args.gradient, g, args.out), args.gradient.dim);
  return sum;
}

void ApplyRows(const ApplyRowsArgs& args) noexcept {
  switch (args.table.format) {
    case RowFormat::kFloat32:
      return ApplyRule<Float32Update, false>(args);
    case RowFormat::kFloat16:
      return ApplyRounded<Float16Update>(args);
    case RowFormat::kBfloat16:
      return ApplyRounded<Bfloat16Update>(args);
    default:
      return;  // not trainable
  }
}

}  // namespace feedfast::embedding_kernels::FEEDFAST_TARGET
