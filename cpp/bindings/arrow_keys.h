#ifndef FEEDFAST_CPP_BINDINGS_ARROW_KEYS_H_
#define FEEDFAST_CPP_BINDINGS_ARROW_KEYS_H_

#include <pybind11/pybind11.h>

#include <memory>

#include "cpp/mph/key_source.h"

namespace feedfast::bindings {

// Whether `object` exports Arrow data.
bool HasArrowInterface(const pybind11::handle& object);

// The Arrow part of MakeKeySource, whose contract it has. Requires HasArrowInterface(keys).
std::unique_ptr<mph::KeySource> MakeArrowKeySource(const pybind11::object& keys, const char* name);

}  // namespace feedfast::bindings

#endif  // FEEDFAST_CPP_BINDINGS_ARROW_KEYS_H_
