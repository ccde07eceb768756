#include "cpp/allreduce/row_merge.h"

#include <algorithm>

namespace feedfast::allreduce {
namespace {

constexpr KernelTable<decltype(&scalar::MergeRows)> kMergeRows = FEEDFAST_KERNEL_TABLE(MergeRows);

}  // namespace

std::vector<std::int64_t> UnionOfRows(Span<const RowList> lists) {
  std::vector<std::int64_t> cursors(static_cast<std::size_t>(lists.size()), 0);
  std::int64_t longest = 0;
  for (const RowList& list : lists) longest = std::max(longest, list.count);
  std::vector<std::int64_t> rows;
  rows.reserve(static_cast<std::size_t>(longest));
  while (true) {
    bool ended = true;
    std::int64_t least = 0;
    for (std::int64_t l = 0; l < lists.size(); ++l) {
      const std::int64_t at = cursors[static_cast<std::size_t>(l)];
      if (at == lists[l].count) continue;
      least = ended ? lists[l].rows[at] : std::min(least, lists[l].rows[at]);
      ended = false;
    }
    if (ended) return rows;
    rows.push_back(least);
    for (std::int64_t l = 0; l < lists.size(); ++l) {
      std::int64_t& at = cursors[static_cast<std::size_t>(l)];
      if (at < lists[l].count && lists[l].rows[at] == least) ++at;
    }
  }
}

void MergeRows(Span<const RowList> lists, Span<const std::int64_t> rows, std::int64_t dim,
               float scale, float* sums) {
  std::vector<std::int64_t> cursors(static_cast<std::size_t>(lists.size()), 0);
  kMergeRows.Get()(
      {lists.data(), cursors.data(), lists.size(), rows.data(), rows.size(), dim, scale, sums});
}

}  // namespace feedfast::allreduce
