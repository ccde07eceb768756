// Compiled once per CPU target: kernels only, everything but the entry points has internal linkage.
#include "cpp/embedding_kernels/pooled_lookup_kernel.h"

#include <cstdint>

#include "cpp/embedding_kernels/divisor.h"
#include "cpp/embedding_kernels/indexes.h"
#include "cpp/embedding_kernels/row_prefetch.h"
#include "cpp/embedding_kernels/row_vectors.h"

namespace feedfast::embedding_kernels::FEEDFAST_TARGET {
namespace {

std::int64_t BeginValue(const BagRange& in) { return At(in.offsets, in.begin_bag); }
std::int64_t EndValue(const BagRange& in) { return At(in.offsets, in.end_bag); }

// Prefetches rows of the jobs behind the one at work, in the order in which they will be read.
class LaterJobs {
 public:
  LaterJobs(const PoolBagsArgs* jobs, std::int64_t num_jobs)
      : job_(jobs), end_job_(jobs + num_jobs) {}

  // Tells that `job` is at work now; returns how many of its rows have been prefetched.
  std::int64_t Start(const PoolBagsArgs* job) {
    const std::int64_t size = EndValue(job->in) - BeginValue(job->in);
    const std::int64_t done = ahead_ < size ? ahead_ : size;
    ahead_ -= done;
    if (job_ <= job) {  // the rest is left to the job itself
      job_ = job + 1;
      next_ = 0;
    }
    return done;
  }

  // Prefetches until `count` rows behind the job at work are, or all there are.
  __attribute__((noinline)) void Reach(std::int64_t count) {
    for (; ahead_ < count; ++ahead_) {
      while (job_ < end_job_ && next_ == EndValue(job_->in) - BeginValue(job_->in)) {
        ++job_;
        next_ = 0;
      }
      if (job_ == end_job_) return;
      const BagRange& in = job_->in;
      const std::int64_t row = At(in.values, BeginValue(in) + next_++);
      PrefetchRow(in.table + row * in.row_bytes, in.row_bytes, in.row_lines);
    }
  }

 private:
  const PoolBagsArgs* job_;  // the next row to prefetch is its id next_, from its first on
  const PoolBagsArgs* end_job_;
  std::int64_t next_ = 0;
  std::int64_t ahead_ = 0;  // rows behind the job at work that have been prefetched
};

// The ids of one job and where its prefetching stands.
template <typename Id>
struct Work {
  const PoolBagsArgs& args;
  const Id* values;
  std::int64_t end_value;
  LaterJobs& later;

  const std::uint8_t* Row(std::int64_t i) const {
    return args.in.table + static_cast<std::int64_t>(values[i]) * args.in.row_bytes;
  }
  // What reading row i makes room for.
  void PrefetchBehind(std::int64_t i) const {
    const std::int64_t ahead = i + args.in.prefetch_rows;
    if (ahead < end_value)
      PrefetchRow(Row(ahead), args.in.row_bytes, args.in.row_lines);
    else
      later.Reach(ahead + 1 - end_value);
  }
};

// Sums of num_columns columns in kVectors registers, the last of which may be partial.
template <typename Rows, int kVectors>
struct ColumnSums {
  explicit ColumnSums(std::int64_t num_columns)
      : last(FirstLanes(num_columns - (kVectors - 1) * kWidth)) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[v] = Broadcast(0.0f);
  }
  void Add(const std::uint8_t* elements, Vector factor) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const Vector x = Rows::Load(elements + v * kWidth * Rows::kElementBits / 8,
                                  v + 1 < kVectors ? kAllLanes : last);
      sums[v] = MultiplyAdd(factor, x, sums[v]);
    }
  }
  void Get(Vector* columns) const {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) columns[v] = sums[v];
  }

  Lanes last;
  Vector sums[kVectors];
};

// Even columns, which are the low codes of bytes, and odd ones, the high codes, have registers of
// their own until the bag is done.
template <int kVectors>
struct ColumnSums<Int4Rows, kVectors> {
  static constexpr std::int64_t kPairs = (kVectors + 1) / 2;

  explicit ColumnSums(std::int64_t num_columns)
      : last_bytes(FirstLanes((num_columns - (kPairs - 1) * 2 * kWidth + 1) / 2)) {
#pragma GCC unroll 4
    for (std::int64_t pair = 0; pair < kPairs; ++pair) low[pair] = high[pair] = Broadcast(0.0f);
  }
  void Add(const std::uint8_t* elements, Vector factor) {
#pragma GCC unroll 4
    for (std::int64_t pair = 0; pair < kPairs; ++pair) {
      Vector even;
      Vector odd;
      LoadUint4(elements + pair * kWidth, pair + 1 < kPairs ? kAllLanes : last_bytes, &even, &odd);
      low[pair] = MultiplyAdd(factor, even, low[pair]);
      high[pair] = MultiplyAdd(factor, odd, high[pair]);
    }
  }
  void Get(Vector* columns) const {
#pragma GCC unroll 4
    for (std::int64_t pair = 0; pair < kPairs; ++pair) {
      Vector unused;
      Interleave(low[pair], high[pair], columns + 2 * pair,
                 2 * pair + 1 < kVectors ? columns + 2 * pair + 1 : &unused);
    }
  }

  Lanes last_bytes;
  Vector low[kPairs];
  Vector high[kPairs];
};

// One pass over a bag for the columns [column, column + num_columns), which fill kVectors
// registers. The pass at column 0 prefetches the rows of later ids.
template <typename Rows, int kVectors, typename Id>
inline void PoolColumns(const Work<Id>& work, std::int64_t bag, std::int64_t begin,
                        std::int64_t end, std::int64_t column, std::int64_t num_columns,
                        float divisor) {
  const float kOne = 1.0f;
  const PoolBagsArgs& args = work.args;
  const bool weighted = args.in.weights != nullptr;
  const float* weight = weighted ? args.in.weights + begin : &kOne;
  const std::uint8_t* table = args.in.table;
  const std::int64_t row_bytes = args.in.row_bytes;
  ColumnSums<Rows, kVectors> sums(num_columns);
  typename Rows::Constant constant;
  for (std::int64_t i = begin; i < end; ++i) {
    if (column == 0) work.PrefetchBehind(i);
    const std::uint8_t* row = table + static_cast<std::int64_t>(work.values[i]) * row_bytes;
    const Vector factor = Rows::Fold(row, *weight, &constant);
    sums.Add(row + Rows::kHeaderBytes + column * Rows::kElementBits / 8, factor);
    weight += weighted;
  }
  Vector columns[kVectors];
  sums.Get(columns);
  float* out = args.out + bag * args.out_stride + column;
  const Lanes last = FirstLanes(num_columns - (kVectors - 1) * kWidth);
  const Vector total = Rows::Total(constant);
  const Vector divisors = Broadcast(divisor);
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    Vector x = columns[v] + total;
    if (divisor != 1.0f) x = divisor == 0.0f ? Broadcast(0.0f) : x / divisors;
    Store(out + v * kWidth, x, v + 1 < kVectors ? kAllLanes : last);
  }
}

// Calls pass(bag, begin, end, divisor) for every bag.
template <typename Id, typename Pass>
inline void ForBags(const Work<Id>& work, const Pass& pass) {
  const BagRange& in = work.args.in;
  std::int64_t begin = BeginValue(in);
  for (std::int64_t bag = in.begin_bag; bag < in.end_bag; ++bag) {
    const std::int64_t end = At(in.offsets, bag + 1);
    pass(bag, begin, end, PoolingDivisor(in.pooling, in.weights, begin, end));
    begin = end;
  }
}

// The columns of all vectors in one pass over each bag.
template <typename Rows, int kVectors, typename Id>
void PoolNarrow(const Work<Id>& work) {
  const std::int64_t dim = work.args.in.dim;
  ForBags(work, [&](std::int64_t bag, std::int64_t begin, std::int64_t end, float divisor) {
    PoolColumns<Rows, kVectors>(work, bag, begin, end, 0, dim, divisor);
  });
}

// Eight vectors a pass, and one a pass for the rest.
template <typename Rows, typename Id>
void PoolWide(const Work<Id>& work) {
  const std::int64_t dim = work.args.in.dim;
  ForBags(work, [&](std::int64_t bag, std::int64_t begin, std::int64_t end, float divisor) {
    std::int64_t column = 0;
    for (; column + 8 * kWidth <= dim; column += 8 * kWidth)
      PoolColumns<Rows, 8>(work, bag, begin, end, column, 8 * kWidth, divisor);
    for (; column < dim; column += kWidth)
      PoolColumns<Rows, 1>(work, bag, begin, end, column,
                           dim - column < kWidth ? dim - column : kWidth, divisor);
  });
}

template <typename Rows, typename Id>
void PoolJob(const PoolBagsArgs& job, LaterJobs& later) {
  const BagRange& in = job.in;
  const Work<Id> work{job, static_cast<const Id*>(in.values.data), EndValue(in), later};
  const std::int64_t begin = BeginValue(in);
  const std::int64_t ahead = begin + in.prefetch_rows;
  for (std::int64_t i = begin + later.Start(&job); i < ahead && i < work.end_value; ++i)
    PrefetchRow(work.Row(i), in.row_bytes, in.row_lines);
  later.Reach(ahead - work.end_value);
  switch ((in.dim + kWidth - 1) / kWidth) {
    case 1:
      return PoolNarrow<Rows, 1>(work);
    case 2:
      return PoolNarrow<Rows, 2>(work);
    case 3:
      return PoolNarrow<Rows, 3>(work);
    case 4:
      return PoolNarrow<Rows, 4>(work);
    case 5:
      return PoolNarrow<Rows, 5>(work);
    case 6:
      return PoolNarrow<Rows, 6>(work);
    case 7:
      return PoolNarrow<Rows, 7>(work);
    case 8:
      return PoolNarrow<Rows, 8>(work);
    default:
      return PoolWide<Rows>(work);
  }
}

template <typename Id>
void PoolJobOf(const PoolBagsArgs& job, LaterJobs& later) {
  switch (job.in.format) {
    case RowFormat::kFloat32:
      return PoolJob<Float32Rows, Id>(job, later);
    case RowFormat::kFloat16:
      return PoolJob<Float16Rows, Id>(job, later);
    case RowFormat::kBfloat16:
      return PoolJob<Bfloat16Rows, Id>(job, later);
    case RowFormat::kInt8Rowwise:
      return PoolJob<Int8Rows, Id>(job, later);
    case RowFormat::kInt4Rowwise:
      return PoolJob<Int4Rows, Id>(job, later);
  }
}

template <typename Rows>
float Dot(const float* a, const std::uint8_t* row, std::int64_t dim) {
  Vector sums = Broadcast(0.0f);
  for (std::int64_t column = 0; column < dim; column += kWidth) {
    const Lanes lanes = FirstLanes(dim - column < kWidth ? dim - column : kWidth);
    const Vector x = LoadFloat32(reinterpret_cast<const std::uint8_t*>(a + column), lanes);
    sums = MultiplyAdd(x, Rows::Load(row + column * Rows::kElementBits / 8, lanes), sums);
  }
  float lanes[kWidth];
  Store(lanes, sums, FirstLanes(kWidth));
  float sum = 0.0f;
  for (const float lane : lanes) sum += lane;
  return sum;
}

template <typename Rows>
void GradWeightsRange(const GradWeightsArgs& args) {
  const BagRange& in = args.in;
  for (std::int64_t bag = in.begin_bag; bag < in.end_bag; ++bag) {
    const std::int64_t begin = At(in.offsets, bag);
    const std::int64_t end = At(in.offsets, bag + 1);
    const float* grad = args.grad + bag * in.dim;
    const auto* pooled = reinterpret_cast<const std::uint8_t*>(args.pooled + bag * in.dim);
    const float divisor = PoolingDivisor(in.pooling, in.weights, begin, end);
    // out = sum w_i row_i / d(w):  grad . d out/d w_i = (grad . row_i - (grad . out) d'_i) / d
    // with d'_i = 0 (sum), 1 (mean), w_i / d (sqrtn).
    const float inverse = divisor == 0.0f ? 0.0f : 1.0f / divisor;
    const float centre =
        in.pooling == Pooling::kSum ? 0.0f : Dot<Float32Rows>(grad, pooled, in.dim);
    for (std::int64_t i = begin; i < end; ++i) {
      const float slope = in.pooling == Pooling::kSqrtN ? in.weights[i] * inverse : 1.0f;
      const float dot = Dot<Rows>(grad, in.table + At(in.values, i) * in.row_bytes, in.dim);
      args.grad_weights[i] = (dot - centre * slope) * inverse;
    }
  }
}

}  // namespace

void PoolBags(const PoolBagsArgs* jobs, std::int64_t num_jobs) noexcept {
  if (num_jobs == 0) return;
  LaterJobs later(jobs, num_jobs);
  for (std::int64_t j = 0; j < num_jobs; ++j)
    jobs[j].in.values.is_int64 ? PoolJobOf<std::int64_t>(jobs[j], later)
                               : PoolJobOf<std::int32_t>(jobs[j], later);
}

void GradWeights(const GradWeightsArgs& args) noexcept {
  switch (args.in.format) {
    case RowFormat::kFloat32:
      return GradWeightsRange<Float32Rows>(args);
    case RowFormat::kFloat16:
      return GradWeightsRange<Float16Rows>(args);
    case RowFormat::kBfloat16:
      return GradWeightsRange<Bfloat16Rows>(args);
    case RowFormat::kInt8Rowwise:
    case RowFormat::kInt4Rowwise:
      return;  // not trainable
  }
}

}  // namespace feedfast::embedding_kernels::FEEDFAST_TARGET
