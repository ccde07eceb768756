#include "cpp/mph/stateless_hash.h"

#include <xxhash.h>

#include "cpp/mph/key_hash.h"

namespace feedfast::mph {

Status ValidateHashedRows(std::int64_t num_rows) {
  if (num_rows < 1 || num_rows > kMaxHashedRows)
    return InvalidArgument("num_rows = ", num_rows, " is not in 1..2^62");
  return OkStatus();
}

Status ValidateQuotientRemainder(std::int64_t num_quotients, std::int64_t num_remainders) {
  if (num_quotients < 1) return InvalidArgument("num_quotients = ", num_quotients, " is below 1");
  if (num_remainders < 1)
    return InvalidArgument("num_remainders = ", num_remainders, " is below 1");
  if (num_quotients > kMaxHashedRows / num_remainders)
    return InvalidArgument("num_quotients * num_remainders = ", num_quotients, " * ",
                           num_remainders, " is above 2^62");
  return OkStatus();
}

Status ValidateIds(Span<const std::int64_t> ids, std::int64_t num_ids) {
  for (std::int64_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || ids[i] >= num_ids)
      return OutOfRange("ids[", i, "] = ", ids[i],
                        " is not in [0, num_quotients * num_remainders = ", num_ids, ")");
  return OkStatus();
}

std::int64_t HashRow(std::string_view key, std::uint64_t seed, std::int64_t num_rows) noexcept {
  const std::uint64_t hash = XXH3_64bits_withSeed(key.data(), key.size(), seed);
  return static_cast<std::int64_t>(MultiplyHigh(hash, static_cast<std::uint64_t>(num_rows)));
}

void HashRows(const KeySource& keys, std::int64_t begin, Span<const std::uint64_t> seeds,
              std::int64_t num_rows, Span<std::int64_t> rows) noexcept {
  const std::int64_t width = seeds.size();
  ForEachKeyBlock(keys, begin, begin + rows.size() / width,
                  [&](std::int64_t first, Span<const std::string_view> views) {
                    for (const std::string_view key : views) __builtin_prefetch(key.data());
                    std::int64_t* out = rows.data() + (first - begin) * width;
                    for (const std::string_view key : views)
                      for (const std::uint64_t seed : seeds) *out++ = HashRow(key, seed, num_rows);
                  });
}

void QuotientRemainderRows(const KeySource& keys, std::int64_t begin, std::uint64_t seed,
                           std::int64_t num_quotients, std::int64_t num_remainders,
                           Span<std::int64_t> rows) noexcept {
  // With hash * num_quotients = quotient * 2^64 + low, the id is quotient * num_remainders +
  // floor(low * num_remainders / 2^64): two multiplications instead of a division.
  const auto quotients = static_cast<std::uint64_t>(num_quotients);
  const auto remainders = static_cast<std::uint64_t>(num_remainders);
  ForEachKeyBlock(keys, begin, begin + rows.size() / 2,
                  [&](std::int64_t first, Span<const std::string_view> views) {
                    for (const std::string_view key : views) __builtin_prefetch(key.data());
                    std::int64_t* out = rows.data() + (first - begin) * 2;
                    for (const std::string_view key : views) {
                      const std::uint64_t hash = XXH3_64bits_withSeed(key.data(), key.size(), seed);
                      *out++ = static_cast<std::int64_t>(MultiplyHigh(hash, quotients));
                      *out++ =
                          static_cast<std::int64_t>(MultiplyHigh(hash * quotients, remainders));
                    }
                  });
}

void SplitIds(Span<const std::int64_t> ids, std::int64_t num_remainders,
              Span<std::int64_t> rows) noexcept {
  for (std::int64_t i = 0; i < ids.size(); ++i) {
    rows[2 * i] = ids[i] / num_remainders;
    rows[2 * i + 1] = ids[i] % num_remainders;
  }
}

}  // namespace feedfast::mph
