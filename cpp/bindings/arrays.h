#ifndef FEEDFAST_CPP_BINDINGS_ARRAYS_H_
#define FEEDFAST_CPP_BINDINGS_ARRAYS_H_

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "cpp/common/span.h"

namespace feedfast::bindings {

// C-contiguous and of exactly this dtype; arguments are declared noconvert, because a silent copy
// of a table is a performance bug.
template <typename T>
using CArray = pybind11::array_t<T, pybind11::array::c_style>;

// ValueError when the first element is not where its type may lie, as in np.frombuffer(bytes,
// np.int64, offset=1): numpy calls such an array contiguous.
inline void RequireAligned(const char* name, const pybind11::array& array) {
  if ((array.flags() & pybind11::detail::npy_api::NPY_ARRAY_ALIGNED_) == 0)
    throw pybind11::value_error(std::string(name) + " is not aligned to its dtype; pass a copy");
}

// ValueError as RequireAligned.
template <typename T>
Span<const T> AsSpan(const char* name, const CArray<T>& array) {
  RequireAligned(name, array);
  return {array.data(), static_cast<std::int64_t>(array.size())};
}

template <typename T>
Span<T> AsMutableSpan(CArray<T>& array) {
  return {array.mutable_data(), static_cast<std::int64_t>(array.size())};
}

// ValueError when `array` has not `rank` dimensions or is not aligned.
inline void RequireRank(const char* name, const pybind11::array& array, int rank) {
  if (array.ndim() != rank)
    throw pybind11::value_error(std::string(name) + " must have " + std::to_string(rank) +
                                " dimensions; got " + std::to_string(array.ndim()));
  RequireAligned(name, array);
}

}  // namespace feedfast::bindings

#endif  // FEEDFAST_CPP_BINDINGS_ARRAYS_H_
