#include "cpp/mph/oov_rows.h"

#include <algorithm>
#include <string_view>

#include "cpp/mph/stateless_hash.h"

namespace feedfast::mph {

void LookupWithOov(const Vocabulary& vocabulary, const KeySource& keys, std::int64_t begin,
                   std::int64_t num_oov, Span<std::int64_t> rows) noexcept {
  if (num_oov == 1) return vocabulary.Lookup(keys, begin, rows);
  // Unknown keys are hashed while the lookup's copy of their bytes is still in the cache.
  constexpr std::int64_t kCached = 4096;
  for (std::int64_t done = 0; done < rows.size(); done += kCached) {
    const Span<std::int64_t> part = rows.subspan(done, std::min(kCached, rows.size() - done));
    vocabulary.Lookup(keys, begin + done, part);
    ForEachKeyBlock(keys, begin + done, begin + done + part.size(),
                    [&](std::int64_t first, Span<const std::string_view> views) {
                      std::int64_t* out = part.data() + (first - begin - done);
                      for (std::int64_t i = 0; i < views.size(); ++i)
                        out[i] = out[i] == 0 ? HashRow(views[i], 0, num_oov) : out[i] + num_oov - 1;
                    });
  }
}

}  // namespace feedfast::mph
