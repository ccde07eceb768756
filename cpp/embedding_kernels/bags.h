#ifndef FEEDFAST_CPP_EMBEDDING_KERNELS_BAGS_H_
#define FEEDFAST_CPP_EMBEDDING_KERNELS_BAGS_H_

#include <cassert>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "cpp/common/span.h"
#include "cpp/common/status.h"
#include "cpp/embedding_kernels/indexes.h"

namespace feedfast::embedding_kernels {

// A view of int64 or int32 integers that somebody else owns.
class IndexSpan {
 public:
  IndexSpan() = default;
  // NOLINTBEGIN(google-explicit-constructor): views convert like std::span
  IndexSpan(Span<const std::int64_t> span) noexcept
      : indexes_{span.data(), true}, size_(span.size()) {}
  IndexSpan(Span<const std::int32_t> span) noexcept
      : indexes_{span.data(), false}, size_(span.size()) {}
  IndexSpan(Span<std::int64_t> span) noexcept : IndexSpan(Span<const std::int64_t>(span)) {}
  IndexSpan(Span<std::int32_t> span) noexcept : IndexSpan(Span<const std::int32_t>(span)) {}
  IndexSpan(const std::vector<std::int64_t>& v) noexcept : IndexSpan(Span<const std::int64_t>(v)) {}
  IndexSpan(const std::vector<std::int32_t>& v) noexcept : IndexSpan(Span<const std::int32_t>(v)) {}
  // NOLINTEND(google-explicit-constructor)

  const Indexes& indexes() const noexcept { return indexes_; }
  std::int64_t size() const noexcept { return size_; }
  bool empty() const noexcept { return size_ == 0; }
  std::int64_t operator[](std::int64_t i) const noexcept {
    assert(i >= 0 && i < size_);
    return At(indexes_, i);
  }

  // visitor(span), with the integers as a Span<const std::int64_t> or Span<const std::int32_t>: for
  // loops that should not ask for the type at every element.
  template <typename Visitor>
  auto Visit(const Visitor& visitor) const {
    return indexes_.is_int64 ? visitor(Span<const std::int64_t>(
                                   static_cast<const std::int64_t*>(indexes_.data), size_))
                             : visitor(Span<const std::int32_t>(
                                   static_cast<const std::int32_t*>(indexes_.data), size_));
  }
  IndexSpan subspan(std::int64_t first, std::int64_t count) const noexcept {
    return Visit([&](auto span) { return IndexSpan(span.subspan(first, count)); });
  }

 private:
  Indexes indexes_{nullptr, true};
  std::int64_t size_ = 0;
};

// Variable-length lists of row ids in CSR form: bag b holds values[offsets[b]] up to, but not
// including, values[offsets[b + 1]].
struct Bags {
  IndexSpan values;   // [nnz], row ids
  IndexSpan offsets;  // [num_bags + 1], ascending from 0 to nnz
  std::optional<Span<const float>> weights = std::nullopt;  // [nnz]; nullopt: all 1

  std::int64_t num_bags() const noexcept { return offsets.size() - 1; }
  const float* weights_or_null() const noexcept { return weights ? weights->data() : nullptr; }
};

// How the rows of a bag become one vector, with w_i = 1 when there are no weights:
//   kSum    sum w_i row_i
//   kMean   sum w_i row_i / sum w_i
//   kSqrtN  sum w_i row_i / sqrt(sum w_i^2)
// A bag whose divisor is 0 (an empty one, or weights that cancel) yields zeros. These are the
// combiners of tf.nn.embedding_lookup_sparse.
enum class Pooling { kSum, kMean, kSqrtN };

// "sum", "mean" or "sqrtn".
StatusOr<Pooling> ParsePooling(std::string_view name);

// Ok when `bags` can be pooled over a table with `num_rows` rows: offsets start at 0, never fall
// and end at nnz; 0 <= values[i] < num_rows; weights are nnz finite numbers. The message of the
// first violation gives argument, position, value and limit. OutOfRange for an id outside the
// table, InvalidArgument for everything else. One pass over
// each array, without a branch per element.
Status ValidateBags(const Bags& bags, std::int64_t num_rows);

// The offsets of bags whose ids stand in the bags bag_of[0], bag_of[stride], ..., num_values of
// them, which must ascend: offsets[b] is how many of them are below b, for 0 <= b <= num_bags. Not
// ok, with a message that calls them `name`: a bag below the one before it, or not in
// [0, num_bags); offsets then hold anything. Requires stride >= 1, num_bags >= 0.
Status OffsetsOfBags(std::string_view name, const std::int64_t* bag_of, std::int64_t num_values,
                     std::int64_t stride, std::int64_t num_bags, std::int64_t* offsets);

}  // namespace feedfast::embedding_kernels

#endif  // FEEDFAST_CPP_EMBEDDING_KERNELS_BAGS_H_
