#ifndef FEEDFAST_CPP_MPH_STATELESS_HASH_H_
#define FEEDFAST_CPP_MPH_STATELESS_HASH_H_

#include <cstdint>
#include <string_view>

#include "cpp/common/span.h"
#include "cpp/common/status.h"
#include "cpp/mph/key_source.h"

namespace feedfast::mph {

// Rows of keys by hashing alone: nothing is stored, nothing is rejected, and different keys may
// share a row. The rows of a key never change between versions or machines.

// Most rows, and most pairs of quotient and remainder, that keys are hashed to.
inline constexpr std::int64_t kMaxHashedRows = std::int64_t{1} << 62;

// Integers as keys: each stands for its 8 little-endian bytes.
class IntegerKeys final : public KeySource {
 public:
  explicit IntegerKeys(Span<const std::int64_t> ids) noexcept : ids_(ids) {}

  std::int64_t size() const noexcept override { return ids_.size(); }
  void Views(std::int64_t begin, Span<std::string_view> views) const noexcept override {
    for (std::int64_t i = 0; i < views.size(); ++i)
      views[i] = {reinterpret_cast<const char*>(ids_.data() + begin + i), sizeof(std::int64_t)};
  }

 private:
  Span<const std::int64_t> ids_;
};

// 1 <= num_rows <= kMaxHashedRows.
Status ValidateHashedRows(std::int64_t num_rows);
// Both at least 1, their product at most kMaxHashedRows.
Status ValidateQuotientRemainder(std::int64_t num_quotients, std::int64_t num_remainders);
// Every id is in [0, num_ids).
Status ValidateIds(Span<const std::int64_t> ids, std::int64_t num_ids);

// floor(XXH3_64(key, seed) * num_rows / 2^64), in [0, num_rows). Requires
// ValidateHashedRows(num_rows).
std::int64_t HashRow(std::string_view key, std::uint64_t seed, std::int64_t num_rows) noexcept;

// One row per key and seed:
//   rows[i, j] = HashRow(key begin + i, seeds[j], num_rows)
// Shape: rows [count, seeds.size()], row-major.
// Requires ValidateHashedRows(num_rows), rows.size() a multiple of seeds.size() >= 1 and begin +
// count <= keys.size().
void HashRows(const KeySource& keys, std::int64_t begin, Span<const std::uint64_t> seeds,
              std::int64_t num_rows, Span<std::int64_t> rows) noexcept;

// Quotient and remainder of one hash (Shi et al. 2020, arXiv 1909.02107, section 3, whose integer
// id a string does not have):
//   id = HashRows of the key with num_quotients * num_remainders rows
//   rows[i, :] = (id / num_remainders, id mod num_remainders)
// Shape: rows [count, 2]. Requires ValidateQuotientRemainder and begin + count <= keys.size().
void QuotientRemainderRows(const KeySource& keys, std::int64_t begin, std::uint64_t seed,
                           std::int64_t num_quotients, std::int64_t num_remainders,
                           Span<std::int64_t> rows) noexcept;

// The same for ids that are integers already, which are not hashed: different ids have different
// pairs. Shapes: ids [n], rows [n, 2]. Requires ValidateIds(ids, num_quotients * num_remainders).
void SplitIds(Span<const std::int64_t> ids, std::int64_t num_remainders,
              Span<std::int64_t> rows) noexcept;

}  // namespace feedfast::mph

#endif  // FEEDFAST_CPP_MPH_STATELESS_HASH_H_
