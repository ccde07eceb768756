#ifndef FEEDFAST_CPP_MODEL_STORE_JSON_H_
#define FEEDFAST_CPP_MODEL_STORE_JSON_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "cpp/common/span.h"
#include "cpp/common/status.h"

namespace feedfast::model_store {

using Json = nlohmann::json;

// Beyond any manifest or header; nothing below recurses deeper.
inline constexpr int kMaxJsonDepth = 64;
inline constexpr std::int64_t kMaxJsonValues = std::int64_t{1} << 22;

// What a name that occurs twice in one object means.
enum class RepeatedNames { kLastWins, kRefused };

// The value that the text is. DataLoss: it is not JSON in UTF-8, deeper or of more values than
// above, or has an integer beyond 64 bits. Memory is bounded by the text and the limits. Throws
// std::bad_alloc.
StatusOr<Json> ParseJson(Span<const std::uint8_t> text, RepeatedNames repeated);

// The value as compact JSON in ASCII, names sorted, which is what Python's
//   json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
// writes: floats are the shortest digits that read back, with an exponent where repr has one.
// Requires a value of ParseJson.
std::string CanonicalJson(const Json& value);

}  // namespace feedfast::model_store

#endif  // FEEDFAST_CPP_MODEL_STORE_JSON_H_
