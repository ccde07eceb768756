#ifndef FEEDFAST_CPP_MPH_LOOKUP_ALL_H_
#define FEEDFAST_CPP_MPH_LOOKUP_ALL_H_

#include <cstdint>
#include <vector>

#include "cpp/common/parallel_for.h"
#include "cpp/common/span.h"
#include "cpp/mph/key_source.h"

namespace feedfast::mph {

// Calls lookup(source, begin, rows) on ranges of `keys`, on up to `threads` threads, so that rows
// of all keys are written; each word of a dictionary is looked up once, unless it has more words
// than keys. Requires rows.size() == keys.size(), threads >= 1. Throws std::bad_alloc.
template <typename Lookup>
void LookupAll(const KeySource& keys, int threads, Span<std::int64_t> rows, const Lookup& lookup) {
  // A range takes over 100 us: far more than handing it to a thread.
  constexpr std::int64_t kGrain = std::int64_t{16} * 1024;
  const KeySource* words = keys.words();
  if (words == nullptr || words->size() > rows.size())
    return ParallelFor(rows.size(), kGrain, threads, [&](std::int64_t begin, std::int64_t end) {
      lookup(keys, begin, rows.subspan(begin, end - begin));
    });
  std::vector<std::int64_t> word_rows(static_cast<std::size_t>(words->size()));
  LookupAll(*words, threads, word_rows, lookup);
  ParallelFor(rows.size(), kGrain, threads, [&](std::int64_t begin, std::int64_t end) {
    const Span<std::int64_t> out = rows.subspan(begin, end - begin);
    keys.WordIndexes(begin, out);
    for (std::int64_t& row : out) row = word_rows[static_cast<std::size_t>(row)];
  });
}

}  // namespace feedfast::mph

#endif  // FEEDFAST_CPP_MPH_LOOKUP_ALL_H_
