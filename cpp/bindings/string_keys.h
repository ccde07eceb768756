#ifndef FEEDFAST_CPP_BINDINGS_STRING_KEYS_H_
#define FEEDFAST_CPP_BINDINGS_STRING_KEYS_H_

#include <pybind11/pybind11.h>

#include <memory>

#include "cpp/mph/key_source.h"

namespace feedfast::bindings {

// Views the strings of a Python object as byte strings; a str is its UTF-8 form, so "a" and b"a"
// are one key. Bytes are not copied, but for numpy U arrays, which are not UTF-8.
//   list or tuple of str and bytes; numpy array of one dimension and kind S, U or object (trailing
//   NULs of S and U are padding, as everywhere in numpy); any object with __arrow_c_array__ or
//   __arrow_c_stream__ of (large_)string, (large_)binary, string_view, binary_view or a dictionary
//   of these (pyarrow arrays and chunked arrays, polars and pandas series).
// The source keeps what it views alive and can be read without the GIL; create and destroy it with
// the GIL. TypeError: another type, an element that is no string. ValueError: a null, a str without
// UTF-8 form (lone surrogate), more than one dimension. Messages give the position; `name` is the
// argument.
std::unique_ptr<mph::KeySource> MakeKeySource(const pybind11::object& keys, const char* name);

}  // namespace feedfast::bindings

#endif  // FEEDFAST_CPP_BINDINGS_STRING_KEYS_H_
