#ifndef FEEDFAST_CPP_MPH_OOV_ROWS_H_
#define FEEDFAST_CPP_MPH_OOV_ROWS_H_

#include <cstdint>

#include "cpp/common/span.h"
#include "cpp/mph/key_source.h"
#include "cpp/mph/vocabulary.h"

namespace feedfast::mph {

// Vocabulary::Lookup with rows 0..num_oov-1 for unknown keys instead of row 0 alone:
//   rows[i] = row of key begin + i, + num_oov - 1    when it is known: known rows start at num_oov
//           = HashRow(key begin + i, 0, num_oov)     otherwise, whatever the vocabulary
// Requires ValidateHashedRows(num_oov) and begin + rows.size() <= keys.size().
void LookupWithOov(const Vocabulary& vocabulary, const KeySource& keys, std::int64_t begin,
                   std::int64_t num_oov, Span<std::int64_t> rows) noexcept;

}  // namespace feedfast::mph

#endif  // FEEDFAST_CPP_MPH_OOV_ROWS_H_
