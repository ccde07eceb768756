#include "cpp/mph/key_codes.h"

#include <cassert>
#include <cstring>

#include "cpp/mph/lookup_all.h"
#include "cpp/mph/vocabulary_builder.h"

namespace feedfast::mph {

void ReadCodes(Span<const std::string_view> keys, std::uint64_t /*seed*/, KeyCode* codes) noexcept {
  for (std::int64_t i = 0; i < keys.size(); ++i) {
    assert(keys[i].size() == sizeof(KeyCode));
    std::memcpy(codes + i, keys[i].data(), sizeof(KeyCode));
  }
}

void HashAll(const KeySource& keys, std::uint64_t seed, int threads, Span<KeyCode> codes) {
  // The bits of the codes, in the type of rows.
  const Span<std::int64_t> bits(reinterpret_cast<std::int64_t*>(codes.data()), codes.size());
  LookupAll(keys, threads, bits,
            [seed](const KeySource& source, std::int64_t begin, Span<std::int64_t> out) {
              auto* const to = reinterpret_cast<KeyCode*>(out.data());
              ForEachKeyBlock(source, begin, begin + out.size(),
                              [&](std::int64_t first, Span<const std::string_view> views) {
                                HashKeys(views, seed, to + (first - begin));
                              });
            });
}

StatusOr<Vocabulary> BuildOfCodes(Span<const KeyCode> codes, const BuildOptions& options) {
  // The seeds that the builder may try change no code, so that the first one decides.
  return VocabularyBuilder(CodeKeys(codes), options, &ReadCodes).Build();
}

}  // namespace feedfast::mph
