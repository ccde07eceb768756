#ifndef FEEDFAST_CPP_BINDINGS_ARROW_C_DATA_H_
#define FEEDFAST_CPP_BINDINGS_ARROW_C_DATA_H_

#include <cstdint>

// The structures of the Arrow C data and stream interfaces, whose layout is a stable ABI:
// https://arrow.apache.org/docs/format/CDataInterface.html and CStreamInterface.html. Reading Arrow
// data through them needs no Arrow library.
namespace feedfast::bindings {

struct ArrowSchema {
  const char* format;
  const char* name;
  const char* metadata;
  std::int64_t flags;
  std::int64_t n_children;
  ArrowSchema** children;
  ArrowSchema* dictionary;
  void (*release)(ArrowSchema*);
  void* private_data;
};

struct ArrowArray {
  std::int64_t length;
  std::int64_t null_count;
  std::int64_t offset;
  std::int64_t n_buffers;
  std::int64_t n_children;
  const void** buffers;
  ArrowArray** children;
  ArrowArray* dictionary;
  void (*release)(ArrowArray*);
  void* private_data;
};

struct ArrowArrayStream {
  int (*get_schema)(ArrowArrayStream*, ArrowSchema* out);
  int (*get_next)(ArrowArrayStream*, ArrowArray* out);
  const char* (*get_last_error)(ArrowArrayStream*);
  void (*release)(ArrowArrayStream*);
  void* private_data;
};

}  // namespace feedfast::bindings

#endif  // FEEDFAST_CPP_BINDINGS_ARROW_C_DATA_H_
