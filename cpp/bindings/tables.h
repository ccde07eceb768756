#ifndef FEEDFAST_CPP_BINDINGS_TABLES_H_
#define FEEDFAST_CPP_BINDINGS_TABLES_H_

#include <pybind11/numpy.h>

#include "cpp/embedding_kernels/table.h"

namespace feedfast::bindings {

// feedfast._core.Table: a table view with the array it lies in.
struct OwnedTable {
  pybind11::array array;
  embedding_kernels::Table view;
};

}  // namespace feedfast::bindings

#endif  // FEEDFAST_CPP_BINDINGS_TABLES_H_
