#include "cpp/allreduce/distinct_rows.h"

#include <cstddef>

namespace feedfast::allreduce {

Span<const std::int64_t> DistinctRows::Find(Span<const std::int64_t> rows,
                                            Span<std::int64_t> positions) {
  index_.StartWindow();
  index_.Insert(rows, positions);
  const Span<const std::int64_t> found = index_.rows();
  const Span<const std::int64_t> order = order_.Ascending(found);
  ascending_.resize(static_cast<std::size_t>(found.size()));
  places_.resize(ascending_.size());
  for (std::int64_t k = 0; k < order.size(); ++k) {
    ascending_[static_cast<std::size_t>(k)] = found[order[k]];
    places_[static_cast<std::size_t>(order[k])] = k;
  }
  for (std::int64_t& position : positions) position = places_[static_cast<std::size_t>(position)];
  return ascending_;
}

}  // namespace feedfast::allreduce
