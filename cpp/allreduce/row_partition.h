#ifndef FEEDFAST_CPP_ALLREDUCE_ROW_PARTITION_H_
#define FEEDFAST_CPP_ALLREDUCE_ROW_PARTITION_H_

#include <cstdint>
#include <vector>

#include "cpp/common/span.h"
#include "cpp/common/status.h"

namespace feedfast::allreduce {

// Which owner has which rows of a table: owner o has [first_rows[o], first_rows[o + 1]).
class RowOwners {
 public:
  // `num_owners` ranges of ceil(num_rows / num_owners) rows each; the last ones are shorter, or
  // empty when there are fewer rows than owners. InvalidArgument: num_rows < 0, num_owners < 1.
  static StatusOr<RowOwners> Even(std::int64_t num_rows, std::int64_t num_owners);
  // InvalidArgument, with the position: fewer than 2 entries, the first is not 0, one is below the
  // one before it.
  static StatusOr<RowOwners> Create(Span<const std::int64_t> first_rows);

  std::int64_t num_owners() const noexcept {
    return static_cast<std::int64_t>(first_rows_.size()) - 1;
  }
  std::int64_t num_rows() const noexcept { return first_rows_.back(); }
  Span<const std::int64_t> first_rows() const noexcept { return first_rows_; }

 private:
  explicit RowOwners(std::vector<std::int64_t> first_rows) : first_rows_(std::move(first_rows)) {}

  std::vector<std::int64_t> first_rows_;
};

// Rows in the order in which they are sent: those of owner 0, then those of owner 1, ...; the rows
// of one owner keep their order.
struct RowPartition {
  std::vector<std::int64_t> offsets;  // [num_owners + 1]: owner o gets [offsets[o], offsets[o + 1])
  std::vector<std::int64_t> positions;  // [rows]: rows[positions[k]] is sent as number k
};

// O(rows x log owners). OutOfRange, with the position: a row outside the table.
StatusOr<RowPartition> PartitionRows(Span<const std::int64_t> rows, const RowOwners& owners);

}  // namespace feedfast::allreduce

#endif  // FEEDFAST_CPP_ALLREDUCE_ROW_PARTITION_H_
