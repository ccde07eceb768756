#include "cpp/allreduce/row_partition.h"

#include <algorithm>
#include <numeric>

namespace feedfast::allreduce {
namespace {

// The last owner whose first row is not above the row; empty owners before it have none. A binary
// search without branches, which random rows would mispredict.
std::int64_t OwnerOf(std::int64_t row, Span<const std::int64_t> first_rows) {
  const std::int64_t* first = first_rows.begin();
  for (std::int64_t size = first_rows.size(); size > 1;) {
    const std::int64_t half = size / 2;
    first += first[half] <= row ? half : 0;
    size -= half;
  }
  return first - first_rows.begin();
}

}  // namespace

StatusOr<RowOwners> RowOwners::Even(std::int64_t num_rows, std::int64_t num_owners) {
  if (num_rows < 0) return InvalidArgument("num_rows = ", num_rows, "; must be >= 0");
  if (num_owners < 1) return InvalidArgument("num_owners = ", num_owners, "; must be >= 1");
  const std::int64_t share = num_rows / num_owners + (num_rows % num_owners == 0 ? 0 : 1);
  std::vector<std::int64_t> first_rows{0};
  for (std::int64_t owner = 0; owner < num_owners; ++owner)
    first_rows.push_back(first_rows.back() + std::min(share, num_rows - first_rows.back()));
  return RowOwners(std::move(first_rows));
}

StatusOr<RowOwners> RowOwners::Create(Span<const std::int64_t> first_rows) {
  if (first_rows.size() < 2)
    return InvalidArgument("first_rows has ", first_rows.size(), " entries; needs at least 2");
  if (first_rows[0] != 0) return InvalidArgument("first_rows[0] = ", first_rows[0], "; must be 0");
  for (std::int64_t owner = 1; owner < first_rows.size(); ++owner)
    if (first_rows[owner] < first_rows[owner - 1])
      return InvalidArgument("first_rows[", owner, "] = ", first_rows[owner],
                             " is below the entry before it, ", first_rows[owner - 1]);
  return RowOwners({first_rows.begin(), first_rows.end()});
}

StatusOr<RowPartition> PartitionRows(Span<const std::int64_t> rows, const RowOwners& owners) {
  const Span<const std::int64_t> first_rows = owners.first_rows();
  RowPartition partition;
  partition.offsets.assign(static_cast<std::size_t>(owners.num_owners()) + 1, 0);
  std::vector<std::int32_t> owner_of(static_cast<std::size_t>(rows.size()));
  for (std::int64_t i = 0; i < rows.size(); ++i) {
    if (rows[i] < 0 || rows[i] >= owners.num_rows())
      return OutOfRange("rows[", i, "] = ", rows[i], " is not in 0..", owners.num_rows() - 1);
    const std::int64_t owner = OwnerOf(rows[i], first_rows);
    owner_of[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(owner);
    ++partition.offsets[static_cast<std::size_t>(owner) + 1];
  }
  std::partial_sum(partition.offsets.begin(), partition.offsets.end(), partition.offsets.begin());
  std::vector<std::int64_t> next(partition.offsets.begin(), partition.offsets.end() - 1);
  partition.positions.resize(owner_of.size());
  for (std::size_t i = 0; i < owner_of.size(); ++i)
    partition.positions[static_cast<std::size_t>(next[static_cast<std::size_t>(owner_of[i])]++)] =
        static_cast<std::int64_t>(i);
  return partition;
}

}  // namespace feedfast::allreduce
