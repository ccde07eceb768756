#ifndef FEEDFAST_CPP_C_API_STRUCTS_H_
#define FEEDFAST_CPP_C_API_STRUCTS_H_

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "cpp/common/status.h"

namespace feedfast::c_api {

// Copies a caller's struct, whose first member says how large the caller's header has it, into
// `out`: members that it lacks are zero. InvalidArgument: it is nullptr, smaller than in the first
// version of the interface (`oldest` bytes), or larger than here and not zero there, so that it
// asks for something this library has not.
template <typename Struct>
Status ReadStruct(const char* name, const Struct* given, std::size_t oldest, Struct& out) {
  if (given == nullptr) return InvalidArgument(name, " is NULL");
  const std::size_t size = given->struct_size;
  if (size < oldest)
    return InvalidArgument(name, ": struct_size is ", size, "; at least ", oldest,
                           " (set it to sizeof)");
  out = Struct{};
  std::memcpy(&out, given, std::min(size, sizeof(Struct)));
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  for (std::size_t i = sizeof(Struct); i < size; ++i)
    if (bytes[i] != 0)
      return InvalidArgument(name, ": byte ", i, " of ", size,
                             " is set; this library knows the first ", sizeof(Struct));
  return OkStatus();
}

}  // namespace feedfast::c_api

#endif  // FEEDFAST_CPP_C_API_STRUCTS_H_
