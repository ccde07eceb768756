#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>

#include "cpp/bindings/arrays.h"
#include "cpp/bindings/registers.h"
#include "cpp/bindings/status_to_python.h"
#include "cpp/embedding_kernels/bags.h"
#include "cpp/embedding_kernels/pooled_lookup.h"
#include "cpp/embedding_kernels/quantized_table.h"
#include "cpp/embedding_kernels/table.h"

namespace py = pybind11;

namespace feedfast::bindings {
namespace {

using namespace feedfast::embedding_kernels;  // NOLINT(google-build-using-namespace): the folder

Bags MakeBags(const CArray<std::int64_t>& values, const CArray<std::int64_t>& offsets,
              const std::optional<CArray<float>>& weights) {
  RequireRank("values", values, 1);
  RequireRank("offsets", offsets, 1);
  Bags bags{AsSpan("values", values), AsSpan("offsets", offsets)};
  if (weights) {
    RequireRank("weights", *weights, 1);
    bags.weights = AsSpan("weights", *weights);
  }
  return bags;
}

void RequireThreads(int threads) {
  if (threads < 1)
    throw py::value_error("threads must be at least 1; got " + std::to_string(threads));
}

// The row width of `table`, without the header of an int8 row.
std::int64_t DimOf(const py::array& table, std::int64_t header_bytes) {
  RequireRank("table", table, 2);
  const std::int64_t dim = table.shape(1) - header_bytes;
  if (dim < 1)
    throw py::value_error("table must have at least " + std::to_string(header_bytes + 1) +
                          " columns; got " + std::to_string(table.shape(1)));
  return dim;
}

// Adds `name`, a pooled lookup in tables of `format`, whose numpy dtype is Element.
template <typename Element, RowFormat format>
void DefinePooledLookup(py::module_& m, const char* name) {
  m.def(
      name,
      [](const CArray<Element>& table, const CArray<std::int64_t>& values,
         const CArray<std::int64_t>& offsets, const std::optional<CArray<float>>& weights,
         const std::string& pooling_name, int threads) {
        const std::int64_t dim =
            DimOf(table, format == RowFormat::kInt8Rowwise ? kInt8HeaderBytes : 0);
        const Bags bags = MakeBags(values, offsets, weights);
        const Pooling pooling = ValueOrThrow(ParsePooling(pooling_name));
        RequireThreads(threads);
        const Table view{table.data(), table.shape(0), dim, format};
        ThrowIfError(ValidateBags(bags, view.num_rows));
        CArray<float> out({bags.num_bags(), dim});
        float* pooled = out.mutable_data();
        {
          const py::gil_scoped_release nogil;
          PooledLookup(view, bags, pooling, pooled, dim, threads);
        }
        return out;
      },
      py::arg("table").noconvert(), py::arg("values").noconvert(), py::arg("offsets").noconvert(),
      py::arg("weights").noconvert().none(true), py::kw_only(), py::arg("pooling"),
      py::arg("threads"));
}

CArray<std::uint8_t> Quantize(const CArray<float>& table, int threads) {
  const std::int64_t dim = DimOf(table, 0);
  RequireThreads(threads);
  const std::int64_t num_rows = table.shape(0);
  const float* rows = table.data();
  CArray<std::uint8_t> out({num_rows, RowBytes(RowFormat::kInt8Rowwise, dim)});
  std::uint8_t* packed = out.mutable_data();
  Status status;
  {
    const py::gil_scoped_release nogil;
    status = ValidateQuantizable(rows, num_rows, dim);
    if (status.ok())
      QuantizeRows(rows, num_rows, dim, RowFormat::kInt8Rowwise, RangeMethod::kMinMax, packed,
                   threads);
  }
  ThrowIfError(status);
  return out;
}

CArray<float> Dequantize(const CArray<std::uint8_t>& packed, int threads) {
  const std::int64_t dim = DimOf(packed, kInt8HeaderBytes);
  RequireThreads(threads);
  const std::int64_t num_rows = packed.shape(0);
  const std::uint8_t* rows = packed.data();
  CArray<float> out({num_rows, dim});
  float* table = out.mutable_data();
  {
    const py::gil_scoped_release nogil;
    DequantizeRows({rows, num_rows, dim, RowFormat::kInt8Rowwise}, table, threads);
  }
  return out;
}

}  // namespace

void RegisterEmbeddingKernels(py::module_& m) {
  DefinePooledLookup<float, RowFormat::kFloat32>(m, "pooled_lookup_float32");
  DefinePooledLookup<std::uint16_t, RowFormat::kFloat16>(m, "pooled_lookup_float16");
  DefinePooledLookup<std::uint16_t, RowFormat::kBfloat16>(m, "pooled_lookup_bfloat16");
  DefinePooledLookup<std::uint8_t, RowFormat::kInt8Rowwise>(m, "pooled_lookup_int8");
  m.def(
      "validate_bags",
      [](const CArray<std::int64_t>& values, const CArray<std::int64_t>& offsets,
         const std::optional<CArray<float>>& weights, std::int64_t num_rows) {
        ThrowIfError(ValidateBags(MakeBags(values, offsets, weights), num_rows));
      },
      py::arg("values").noconvert(), py::arg("offsets").noconvert(),
      py::arg("weights").noconvert().none(true), py::kw_only(), py::arg("num_rows"));
  m.def("quantize_rows", &Quantize, py::arg("table").noconvert(), py::kw_only(),
        py::arg("threads"));
  m.def("dequantize_rows", &Dequantize, py::arg("packed").noconvert(), py::kw_only(),
        py::arg("threads"));
}

}  // namespace feedfast::bindings
