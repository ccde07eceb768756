#include "cpp/embedding_kernels/row_gradient.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "cpp/common/cpu_target.h"
#include "cpp/embedding_kernels/divisor.h"
#include "cpp/embedding_kernels/row_optimizer_kernel.h"

namespace feedfast::embedding_kernels {
namespace {

constexpr int kMaxDigitBits = 12;  // 4096 counters of 4 bytes stay in the first-level cache

int BitWidth(std::int64_t x) {
  return x <= 0 ? 0 : 64 - __builtin_clzll(static_cast<unsigned long long>(x));
}

std::int64_t Largest(const IndexSpan& values) {
  return values.Visit([](auto span) {
    std::int64_t largest = 0;
    for (const std::int64_t value : span) largest = std::max(largest, value);
    return largest;
  });
}

Status CheckKey(int payload_bits, int row_bits, std::int64_t num_ids) {
  constexpr std::int64_t kMaxIds = std::numeric_limits<std::uint32_t>::max();
  if (num_ids <= kMaxIds && payload_bits <= 32 && payload_bits + row_bits <= 64) return OkStatus();
  return InvalidArgument("values has ", num_ids, " ids with rows of up to ", row_bits,
                         " bits; a gradient sorts less than 2^32 ids, and 64 bits for a row and ",
                         "a position together");
}

}  // namespace

Status RowGroups::Group(const Bags& bags, Pooling pooling) {
  const std::int64_t nnz = bags.values.size();
  const float* weights = bags.weights_or_null();
  has_factors_ = weights != nullptr || pooling != Pooling::kSum;
  // Without weights the bag says everything about an entry; with them its position does.
  const std::int64_t payloads = weights == nullptr ? bags.num_bags() : nnz;
  const int payload_bits = BitWidth(payloads - 1);
  const int row_bits = BitWidth(Largest(bags.values));
  FEEDFAST_RETURN_IF_ERROR(CheckKey(payload_bits, row_bits, nnz));
  Reserve(nnz);
  bags.values.Visit([&](auto values) {
    for (std::int64_t b = 0; b < bags.num_bags(); ++b)
      for (std::int64_t i = bags.offsets[b], end = bags.offsets[b + 1]; i < end; ++i)
        keys_[static_cast<std::size_t>(i)] = static_cast<std::uint64_t>(values[i]) << payload_bits |
                                             static_cast<std::uint64_t>(weights == nullptr ? b : i);
  });
  Sort(payload_bits, row_bits);
  Split(payload_bits);
  if (!has_factors_) return OkStatus();

  const auto num_bags = static_cast<std::size_t>(bags.num_bags());
  const std::unique_ptr<float[]> inverses(new float[num_bags]);
  for (std::size_t b = 0; b < num_bags; ++b) {
    const auto bag = static_cast<std::int64_t>(b);
    const float divisor =
        PoolingDivisor(pooling, weights, bags.offsets[bag], bags.offsets[bag + 1]);
    inverses[b] = divisor == 0.0f ? 0.0f : 1.0f / divisor;
  }
  if (weights == nullptr) {
    for (std::int64_t e = 0; e < nnz; ++e) {
      const auto entry = static_cast<std::size_t>(e);
      factors_[entry] = inverses[sources_[entry]];
    }
    return OkStatus();
  }
  // From the positions to the bags; scratch_ is free after Sort.
  for (std::size_t b = 0; b < num_bags; ++b) {
    const auto bag = static_cast<std::int64_t>(b);
    std::fill(scratch_.get() + bags.offsets[bag], scratch_.get() + bags.offsets[bag + 1], b);
  }
  for (std::int64_t e = 0; e < nnz; ++e) {
    const auto entry = static_cast<std::size_t>(e);
    const std::uint32_t position = sources_[entry];
    const std::uint64_t bag = scratch_[position];
    factors_[entry] = weights[position] * inverses[bag];
    sources_[entry] = static_cast<std::uint32_t>(bag);
  }
  return OkStatus();
}

Status RowGroups::GroupSlices(Span<const std::int64_t> rows) {
  const int payload_bits = BitWidth(rows.size() - 1);
  const int row_bits = BitWidth(Largest(IndexSpan(rows)));
  FEEDFAST_RETURN_IF_ERROR(CheckKey(payload_bits, row_bits, rows.size()));
  has_factors_ = false;
  Reserve(rows.size());
  for (std::int64_t i = 0; i < rows.size(); ++i)
    keys_[static_cast<std::size_t>(i)] =
        static_cast<std::uint64_t>(rows[i]) << payload_bits | static_cast<std::uint64_t>(i);
  Sort(payload_bits, row_bits);
  Split(payload_bits);
  return OkStatus();
}

RowGradient RowGroups::Gradient(const float* grad, std::int64_t dim) const noexcept {
  return {num_rows_, rows_.get(), offsets_.get(), sources_.get(), factors_or_null(), grad, dim};
}

void RowGroups::Reserve(std::int64_t entries) {
  num_entries_ = entries;
  if (entries <= capacity_) return;
  const auto size = static_cast<std::size_t>(entries);
  // Not std::vector: nothing here is read before it is written.
  keys_.reset(new std::uint64_t[size]);
  scratch_.reset(new std::uint64_t[size]);
  rows_.reset(new std::int64_t[size]);
  offsets_.reset(new std::uint32_t[size + 1]);
  sources_.reset(new std::uint32_t[size]);
  factors_.reset(new float[size]);
  capacity_ = entries;
}

// Least significant digit first, with as few digits as the largest row needs; the counts of all
// digits come from one pass.
void RowGroups::Sort(int payload_bits, int row_bits) {
  // Few ids do not pay for many counters.
  const int most_bits = std::clamp(BitWidth(num_entries_), 6, kMaxDigitBits);
  const int passes = (row_bits + most_bits - 1) / most_bits;
  if (passes == 0) return;
  const int digit_bits = (row_bits + passes - 1) / passes;
  const std::uint64_t mask = (std::uint64_t{1} << digit_bits) - 1;
  const std::size_t digits = std::size_t{1} << digit_bits;
  const std::unique_ptr<std::uint32_t[]> next(
      new std::uint32_t[static_cast<std::size_t>(passes) * digits]());
  for (std::int64_t i = 0; i < num_entries_; ++i) {
    std::uint64_t row = keys_[static_cast<std::size_t>(i)] >> payload_bits;
    for (int pass = 0; pass < passes; ++pass, row >>= digit_bits)
      ++next[static_cast<std::size_t>(pass) * digits + (row & mask)];
  }
  for (int pass = 0; pass < passes; ++pass) {
    std::uint32_t* to = next.get() + static_cast<std::size_t>(pass) * digits;
    std::uint32_t begin = 0;
    for (std::size_t d = 0; d < digits; ++d) begin += std::exchange(to[d], begin);
    const int shift = payload_bits + pass * digit_bits;
    for (std::int64_t i = 0; i < num_entries_; ++i) {
      const std::uint64_t key = keys_[static_cast<std::size_t>(i)];
      scratch_[to[key >> shift & mask]++] = key;
    }
    keys_.swap(scratch_);
  }
}

void RowGroups::Split(int payload_bits) {
  const std::uint64_t mask = (std::uint64_t{1} << payload_bits) - 1;
  std::int64_t groups = 0;
  std::uint64_t last = ~std::uint64_t{0};
  // Branch-free: the row and offset of a group are written until the next group begins.
  for (std::int64_t e = 0; e < num_entries_; ++e) {
    const auto entry = static_cast<std::size_t>(e);
    const std::uint64_t key = keys_[entry];
    const std::uint64_t row = key >> payload_bits;
    sources_[entry] = static_cast<std::uint32_t>(key & mask);
    rows_[static_cast<std::size_t>(groups)] = static_cast<std::int64_t>(row);
    offsets_[static_cast<std::size_t>(groups)] = static_cast<std::uint32_t>(e);
    groups += row != last;
    last = row;
  }
  num_rows_ = groups;
  offsets_[static_cast<std::size_t>(groups)] = static_cast<std::uint32_t>(num_entries_);
}

bool StrictlyAscending(Span<const std::int64_t> rows) noexcept {
  bool ascending = true;
  for (std::int64_t i = 1; i < rows.size(); ++i) ascending &= rows[i - 1] < rows[i];
  return ascending;
}

Status ValidateRows(Span<const std::int64_t> rows, std::int64_t num_rows) {
  for (std::int64_t i = 0; i < rows.size(); ++i)
    if (rows[i] < 0 || rows[i] >= num_rows)
      return OutOfRange("rows[", i, "] = ", rows[i], " is not a row of a table with ", num_rows,
                        " rows");
  return OkStatus();
}

void SumRowGradient(const RowGradient& gradient, float* out, std::int64_t begin,
                    std::int64_t end) noexcept {
  static constexpr KernelTable<decltype(&scalar::SumRows)> kKernels =
      FEEDFAST_KERNEL_TABLE(SumRows);
  kKernels.Get()({gradient, out, begin, end});
}

}  // namespace feedfast::embedding_kernels
