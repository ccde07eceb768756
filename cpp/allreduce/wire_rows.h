#ifndef FEEDFAST_CPP_ALLREDUCE_WIRE_ROWS_H_
#define FEEDFAST_CPP_ALLREDUCE_WIRE_ROWS_H_

#include <cstdint>

#include "cpp/common/span.h"

namespace feedfast::allreduce {

// out[k, :] = values[positions[k], :]. Shapes: values [any, dim], out [positions.size(), dim], both
// row-major. Requires positions within values; nothing overlaps.
void GatherRows(const float* values, std::int64_t dim, Span<const std::int64_t> positions,
                float* out) noexcept;

// bfloat16, the upper half of a float32, rounded to nearest, ties to even; NaN stays NaN. Spans are
// equally long and do not overlap.
void ToBfloat16(Span<const float> values, Span<std::uint16_t> bits) noexcept;
// Exact.
void FromBfloat16(Span<const std::uint16_t> bits, Span<float> values) noexcept;

}  // namespace feedfast::allreduce

#endif  // FEEDFAST_CPP_ALLREDUCE_WIRE_ROWS_H_
