#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "cpp/bindings/arrays.h"
#include "cpp/bindings/registers.h"
#include "cpp/bindings/status_to_python.h"
#include "cpp/bindings/tables.h"
#include "cpp/embedding_kernels/bags.h"
#include "cpp/embedding_kernels/grouped_lookup.h"
#include "cpp/embedding_kernels/pooled_lookup.h"
#include "cpp/embedding_kernels/quantized_table.h"
#include "cpp/embedding_kernels/row_read_probe.h"
#include "cpp/embedding_kernels/table.h"
#include "cpp/embedding_kernels/table_pages.h"

namespace py = pybind11;

namespace feedfast::bindings {
namespace {

using namespace feedfast::embedding_kernels;  // NOLINT(google-build-using-namespace): the folder

// `array` [num_rows, dim] of elements in `format`.
template <typename Element>
OwnedTable MakeTable(const CArray<Element>& array, RowFormat format) {
  RequireRank("table", array, 2);
  if (array.shape(1) < 1) throw py::value_error("table must have at least 1 columns; got 0");
  return {array, {array.data(), array.shape(0), array.shape(1), format}};
}

RowFormat QuantizedFormat(int bits) {
  if (bits == 8) return RowFormat::kInt8Rowwise;
  if (bits == 4) return RowFormat::kInt4Rowwise;
  throw py::value_error("bits must be 8 or 4; got " + std::to_string(bits));
}

// `packed` [num_rows, RowBytes(format, dim)].
OwnedTable MakeQuantizedTable(const CArray<std::uint8_t>& packed, std::int64_t dim, int bits) {
  RequireRank("packed", packed, 2);
  const RowFormat format = QuantizedFormat(bits);
  if (dim < 1 || packed.shape(1) != RowBytes(format, dim))
    throw py::value_error(
        "packed must have " + std::to_string(RowBytes(format, std::max<std::int64_t>(dim, 1))) +
        " columns for dim " + std::to_string(dim) + "; got " + std::to_string(packed.shape(1)));
  return {packed, {packed.data(), packed.shape(0), dim, format}};
}

// int64 or int32, one-dimensional; the Python side has converted anything else.
IndexSpan MakeIndexes(const char* name, const py::array& array) {
  RequireRank(name, array, 1);
  if (py::isinstance<CArray<std::int64_t>>(array))
    return AsSpan(name, py::reinterpret_borrow<CArray<std::int64_t>>(array));
  if (py::isinstance<CArray<std::int32_t>>(array))
    return AsSpan(name, py::reinterpret_borrow<CArray<std::int32_t>>(array));
  throw py::type_error(std::string(name) + " must be a contiguous int64 or int32 array");
}

Bags MakeBags(const py::array& values, const py::array& offsets,
              const std::optional<CArray<float>>& weights) {
  Bags bags{MakeIndexes("values", values), MakeIndexes("offsets", offsets)};
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

CArray<float> Lookup(const OwnedTable& table, const py::array& values, const py::array& offsets,
                     const std::optional<CArray<float>>& weights, std::string_view pooling_name,
                     int threads) {
  const Bags bags = MakeBags(values, offsets, weights);
  const Pooling pooling = ValueOrThrow(ParsePooling(pooling_name));
  RequireThreads(threads);
  ThrowIfError(ValidateBags(bags, table.view.num_rows));
  CArray<float> out({bags.num_bags(), table.view.dim});
  float* pooled = out.mutable_data();
  {
    const py::gil_scoped_release nogil;
    PooledLookup(table.view, bags, pooling, pooled, table.view.dim, threads);
  }
  return out;
}

// (table, values, offsets, weights, pooling, column)
using FeatureTuple = std::tuple<const OwnedTable*, py::array, py::array,
                                std::optional<CArray<float>>, std::string_view, std::int64_t>;

// Fills the features' columns of out [num_bags, columns].
void GroupedLookup(const std::vector<FeatureTuple>& tuples, CArray<float>& out, int threads) {
  RequireThreads(threads);
  RequireRank("out", out, 2);
  std::vector<PooledFeature> features;
  features.reserve(tuples.size());
  for (const auto& [table, values, offsets, weights, pooling, column] : tuples)
    features.push_back({table->view, MakeBags(values, offsets, weights),
                        ValueOrThrow(ParsePooling(pooling)), column});
  float* pooled = out.mutable_data();
  const std::int64_t columns = out.shape(1);
  Status status;
  {
    const py::gil_scoped_release nogil;
    status = ValidateFeatures(features, columns);
  }
  ThrowIfError(status);
  if (!features.empty() && out.shape(0) != features[0].bags.num_bags())
    throw py::value_error("out has " + std::to_string(out.shape(0)) +
                          " rows; it must have one for each of " +
                          std::to_string(features[0].bags.num_bags()) + " bags");
  const py::gil_scoped_release nogil;
  GroupedPooledLookup(features, pooled, columns, threads);
}

// Of values [num_rows, dim], a table or some rows of one.
std::int64_t DimOf(const CArray<float>& values) {
  RequireRank("table", values, 2);
  if (values.shape(1) < 1) throw py::value_error("table must have at least 1 columns; got 0");
  return values.shape(1);
}

CArray<std::uint8_t> Quantize(const CArray<float>& table, int bits, std::string_view method_name,
                              int threads) {
  const std::int64_t dim = DimOf(table);
  const RowFormat format = QuantizedFormat(bits);
  const RangeMethod method = ValueOrThrow(ParseRangeMethod(method_name));
  RequireThreads(threads);
  const std::int64_t num_rows = table.shape(0);
  const float* rows = table.data();
  CArray<std::uint8_t> out({num_rows, RowBytes(format, dim)});
  std::uint8_t* packed = out.mutable_data();
  Status status;
  {
    const py::gil_scoped_release nogil;
    status = ValidateQuantizable(rows, num_rows, dim);
    if (status.ok()) QuantizeRows(rows, num_rows, dim, format, method, packed, threads);
  }
  ThrowIfError(status);
  return out;
}

void QuantizeAt(CArray<std::uint8_t>& packed, const CArray<std::int64_t>& rows,
                const CArray<float>& values, int bits, std::string_view method_name, int threads) {
  const std::int64_t dim = DimOf(values);
  const OwnedTable table = MakeQuantizedTable(packed, dim, bits);
  const RangeMethod method = ValueOrThrow(ParseRangeMethod(method_name));
  RequireRank("rows", rows, 1);
  RequireThreads(threads);
  const Span<const std::int64_t> places = AsSpan("rows", rows);
  const std::int64_t num_rows = values.shape(0);
  if (num_rows != places.size())
    throw py::value_error("table has " + std::to_string(num_rows) +
                          " rows; it must have one for each of " + std::to_string(places.size()) +
                          " rows to update");
  const float* floats = values.data();
  std::uint8_t* out = packed.mutable_data();
  Status status;
  {
    const py::gil_scoped_release nogil;
    status = ValidateRowsToUpdate(places, table.view.num_rows);
    if (status.ok()) status = ValidateQuantizable(floats, num_rows, dim);
    if (status.ok()) QuantizeRowsAt(floats, places, dim, table.view.format, method, out, threads);
  }
  ThrowIfError(status);
}

CArray<float> Dequantize(const OwnedTable& table, int threads) {
  RequireThreads(threads);
  CArray<float> out({table.view.num_rows, table.view.dim});
  float* floats = out.mutable_data();
  const py::gil_scoped_release nogil;
  DequantizeRows(table.view, floats, threads);
  return out;
}

// (greatest, root mean square, share of saturated rows)
std::tuple<double, double, double> MeasureError(const OwnedTable& table,
                                                const CArray<float>& original, int threads) {
  RequireRank("table", original, 2);
  RequireThreads(threads);
  if (original.shape(0) != table.view.num_rows || original.shape(1) != table.view.dim)
    throw py::value_error("table must have shape (" + std::to_string(table.view.num_rows) + ", " +
                          std::to_string(table.view.dim) + "); got (" +
                          std::to_string(original.shape(0)) + ", " +
                          std::to_string(original.shape(1)) + ")");
  const float* floats = original.data();
  const py::gil_scoped_release nogil;
  const QuantizationError error = MeasureQuantizationError(floats, table.view, threads);
  return {error.greatest, error.root_mean_square, error.saturated_share};
}

}  // namespace

void RegisterEmbeddingKernels(py::module_& m) {
  py::class_<OwnedTable>(m, "Table")
      .def_static(
          "float32",
          [](const CArray<float>& array) { return MakeTable(array, RowFormat::kFloat32); },
          py::arg("array").noconvert())
      .def_static(
          "float16",
          [](const CArray<std::uint16_t>& array) { return MakeTable(array, RowFormat::kFloat16); },
          py::arg("array").noconvert())
      .def_static(
          "bfloat16",
          [](const CArray<std::uint16_t>& array) { return MakeTable(array, RowFormat::kBfloat16); },
          py::arg("array").noconvert())
      .def_static("quantized", &MakeQuantizedTable, py::arg("packed").noconvert(), py::kw_only(),
                  py::arg("dim"), py::arg("bits"))
      .def_property_readonly("num_rows", [](const OwnedTable& t) { return t.view.num_rows; })
      .def_property_readonly("dim", [](const OwnedTable& t) { return t.view.dim; });
  m.def("pooled_lookup", &Lookup, py::arg("table"), py::arg("values").noconvert(),
        py::arg("offsets").noconvert(), py::arg("weights").noconvert().none(true), py::kw_only(),
        py::arg("pooling"), py::arg("threads"));
  m.def("pooled_lookup_grouped", &GroupedLookup, py::arg("features"), py::arg("out").noconvert(),
        py::kw_only(), py::arg("threads"));
  m.def(
      "validate_bags",
      [](const py::array& values, const py::array& offsets,
         const std::optional<CArray<float>>& weights, std::int64_t num_rows) {
        ThrowIfError(ValidateBags(MakeBags(values, offsets, weights), num_rows));
      },
      py::arg("values").noconvert(), py::arg("offsets").noconvert(),
      py::arg("weights").noconvert().none(true), py::kw_only(), py::arg("num_rows"));
  m.def("quantize_rows", &Quantize, py::arg("table").noconvert(), py::kw_only(), py::arg("bits"),
        py::arg("method"), py::arg("threads"));
  m.def("quantize_rows_at", &QuantizeAt, py::arg("packed").noconvert(), py::arg("rows").noconvert(),
        py::arg("values").noconvert(), py::kw_only(), py::arg("bits"), py::arg("method"),
        py::arg("threads"));
  m.def("dequantize_rows", &Dequantize, py::arg("table"), py::kw_only(), py::arg("threads"));
  m.def("quantization_error", &MeasureError, py::arg("table"), py::arg("original").noconvert(),
        py::kw_only(), py::arg("threads"));
  m.def(
      "read_rows",
      [](const py::array& table, const CArray<std::int64_t>& rows, std::int64_t lines_in_flight,
         int threads) {
        RequireThreads(threads);
        RequireRank("table", table, 2);
        if ((table.flags() & py::array::c_style) == 0)
          throw py::value_error("table must be C-contiguous");
        constexpr std::int64_t kMaxLines = std::int64_t{1} << 20;
        const std::int64_t row_bytes = table.shape(1) * table.itemsize();
        if (row_bytes < 8 || lines_in_flight < 0 || lines_in_flight > kMaxLines)
          throw py::value_error("rows must have at least 8 bytes and lines_in_flight be in [0, " +
                                std::to_string(kMaxLines) + "]; got " + std::to_string(row_bytes) +
                                " and " + std::to_string(lines_in_flight));
        const Span<const std::int64_t> places = AsSpan("rows", rows);
        const std::vector<std::int64_t> offsets = {0, places.size()};
        ThrowIfError(ValidateBags({places, offsets}, table.shape(0)));
        const void* data = table.data();
        const py::gil_scoped_release nogil;
        return ReadRows(data, row_bytes, places, lines_in_flight, threads);
      },
      py::arg("table"), py::arg("rows").noconvert(), py::kw_only(), py::arg("lines_in_flight"),
      py::arg("threads") = 1);
  m.def(
      "move_to_huge_pages",
      [](const py::array& array) {
        if ((array.flags() & py::array::c_style) == 0)
          throw py::value_error("array must be C-contiguous");
        const void* data = array.data();
        const std::int64_t bytes = array.nbytes();
        const py::gil_scoped_release nogil;
        return MoveToHugePages(data, bytes);
      },
      py::arg("array"));
}

}  // namespace feedfast::bindings
