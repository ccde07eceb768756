#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "cpp/allreduce/distinct_rows.h"
#include "cpp/allreduce/row_accumulator.h"
#include "cpp/allreduce/row_gather.h"
#include "cpp/allreduce/row_merge.h"
#include "cpp/allreduce/row_partition.h"
#include "cpp/allreduce/wire_rows.h"
#include "cpp/bindings/arrays.h"
#include "cpp/bindings/registers.h"
#include "cpp/bindings/status_to_python.h"

namespace py = pybind11;

namespace feedfast::bindings {
namespace {

using allreduce::RowAccumulator;
using allreduce::RowIndex;

void RequireRows(Span<const std::int64_t> rows) {
  const auto* const negative =
      std::find_if(rows.begin(), rows.end(), [](std::int64_t row) { return row < 0; });
  if (negative != rows.end())
    throw py::index_error("rows[" + std::to_string(negative - rows.begin()) +
                          "] = " + std::to_string(*negative) + "; a row must be >= 0");
}

template <typename T>
CArray<T> Copied(Span<const T> values, std::vector<py::ssize_t> shape) {
  CArray<T> array(std::move(shape));
  if (!values.empty())
    std::memcpy(array.mutable_data(), values.data(),
                static_cast<std::size_t>(values.size()) * sizeof(T));
  return array;
}

// Calls from several threads run one after the other.
class PyRowAccumulator {
 public:
  explicit PyRowAccumulator(std::int64_t dim) : accumulator_(Checked(dim)) {}

  std::int64_t dim() const { return accumulator_.dim(); }
  std::int64_t num_rows() {
    const auto lock = Lock();
    return accumulator_.rows().size();
  }
  std::int64_t num_slices() {
    const auto lock = Lock();
    return accumulator_.num_slices();
  }

  void Add(const CArray<std::int64_t>& rows, const CArray<float>& values) {
    const Span<const std::int64_t> ids = AsSpan("rows", rows);
    RequireRank("rows", rows, 1);
    RequireRank("values", values, 2);
    if (values.shape(0) != rows.shape(0) || values.shape(1) != dim())
      throw py::value_error("values has shape (" + std::to_string(values.shape(0)) + ", " +
                            std::to_string(values.shape(1)) + "); needs (" +
                            std::to_string(rows.shape(0)) + ", " + std::to_string(dim()) + ")");
    RequireRows(ids);
    const float* const slices = values.data();
    const py::gil_scoped_release nogil;
    const std::lock_guard lock(mutex_);
    accumulator_.Add(ids, slices);
  }

  std::tuple<CArray<std::int64_t>, CArray<float>, CArray<std::int64_t>> Take() {
    const auto lock = Lock();
    const std::int64_t size = accumulator_.rows().size();
    CArray<std::int64_t> rows(size);
    CArray<float> sums(std::vector<py::ssize_t>{size, dim()});
    CArray<std::int64_t> counts(size);
    const Span<std::int64_t> rows_out = AsMutableSpan(rows);
    float* const sums_out = sums.mutable_data();
    const Span<std::int64_t> counts_out = AsMutableSpan(counts);
    {
      const py::gil_scoped_release nogil;
      accumulator_.CopyAscending(rows_out, sums_out, counts_out);
      accumulator_.StartWindow();
    }
    return {std::move(rows), std::move(sums), std::move(counts)};
  }

  void Discard() {
    const auto lock = Lock();
    accumulator_.StartWindow();
  }

 private:
  // Nobody waits for the lock with the GIL in hand, which its owner may need.
  std::unique_lock<std::mutex> Lock() {
    const py::gil_scoped_release nogil;
    return std::unique_lock(mutex_);
  }

  static std::int64_t Checked(std::int64_t dim) {
    if (dim < 1) throw py::value_error("dim = " + std::to_string(dim) + "; must be >= 1");
    return dim;
  }

  std::mutex mutex_;
  RowAccumulator accumulator_;
};

// Distinct elements in the order in which they are first seen, and the position of each among them.
template <typename T>
std::pair<CArray<T>, CArray<std::int64_t>> UniqueOf(Span<const T> values) {
  const Span<const std::int64_t> ids(reinterpret_cast<const std::int64_t*>(values.data()),
                                     values.size());
  CArray<std::int64_t> positions(ids.size());
  const Span<std::int64_t> out = AsMutableSpan(positions);
  RowIndex index;
  {
    const py::gil_scoped_release nogil;
    index.Insert(ids, out);
  }
  const Span<const T> unique(reinterpret_cast<const T*>(index.rows().data()), index.size());
  return {Copied<T>(unique, {index.size()}), positions};
}

std::pair<CArray<std::int64_t>, CArray<std::int64_t>> UniqueRows(const CArray<std::int64_t>& rows) {
  const Span<const std::int64_t> ids = AsSpan("rows", rows);
  RequireRank("rows", rows, 1);
  RequireRows(ids);
  return UniqueOf(ids);
}

std::pair<CArray<std::uint64_t>, CArray<std::int64_t>> UniqueCodes(
    const CArray<std::uint64_t>& codes) {
  RequireRank("codes", codes, 1);
  return UniqueOf(AsSpan("codes", codes));
}

std::pair<CArray<std::int64_t>, CArray<std::int64_t>> PartitionRows(
    const CArray<std::int64_t>& rows, const CArray<std::int64_t>& first_rows) {
  RequireRank("rows", rows, 1);
  const auto owners = ValueOrThrow(allreduce::RowOwners::Create(AsSpan("first_rows", first_rows)));
  const auto partition = ValueOrThrow(allreduce::PartitionRows(AsSpan("rows", rows), owners));
  const auto array = [](const std::vector<std::int64_t>& values) {
    return Copied<std::int64_t>(values, {static_cast<py::ssize_t>(values.size())});
  };
  return {array(partition.offsets), array(partition.positions)};
}

using PyRowList = std::pair<CArray<std::int64_t>, CArray<float>>;

allreduce::RowList AsRowList(const PyRowList& list, std::size_t index, std::int64_t dim) {
  const auto& [rows, values] = list;
  const std::string name = "lists[" + std::to_string(index) + "]";
  RequireRank((name + " rows").c_str(), rows, 1);
  RequireRank((name + " values").c_str(), values, 2);
  if (values.shape(0) != rows.shape(0) || values.shape(1) != dim)
    throw py::value_error(name + " has values of shape (" + std::to_string(values.shape(0)) + ", " +
                          std::to_string(values.shape(1)) + "); needs (" +
                          std::to_string(rows.shape(0)) + ", " + std::to_string(dim) + ")");
  const Span<const std::int64_t> ids = AsSpan("rows", rows);
  const auto* const falling = std::adjacent_find(ids.begin(), ids.end(), std::greater_equal<>());
  if (falling != ids.end())
    throw py::value_error(name + " has row " + std::to_string(falling[1]) + " after row " +
                          std::to_string(falling[0]) + "; rows must ascend");
  return {ids.data(), values.data(), ids.size()};
}

std::pair<CArray<std::int64_t>, CArray<float>> MergeRows(const std::vector<PyRowList>& lists,
                                                         std::int64_t dim, float scale) {
  if (dim < 1) throw py::value_error("dim = " + std::to_string(dim) + "; must be >= 1");
  std::vector<allreduce::RowList> views;
  views.reserve(lists.size());
  for (std::size_t l = 0; l < lists.size(); ++l) views.push_back(AsRowList(lists[l], l, dim));
  std::vector<std::int64_t> united;
  {
    const py::gil_scoped_release nogil;
    united = allreduce::UnionOfRows(views);
  }
  const auto size = static_cast<py::ssize_t>(united.size());
  CArray<float> sums(std::vector<py::ssize_t>{size, dim});
  float* const out = sums.mutable_data();
  {
    const py::gil_scoped_release nogil;
    allreduce::MergeRows(views, united, dim, scale, out);
  }
  return {Copied<std::int64_t>(united, {size}), std::move(sums)};
}

// One call at a time.
class PyDistinctRows {
 public:
  std::pair<CArray<std::int64_t>, CArray<std::int64_t>> Find(const CArray<std::int64_t>& rows) {
    const Span<const std::int64_t> ids = AsSpan("rows", rows);
    RequireRank("rows", rows, 1);
    RequireRows(ids);
    CArray<std::int64_t> positions(ids.size());
    const Span<const std::int64_t> found = distinct_.Find(ids, AsMutableSpan(positions));
    return {Copied<std::int64_t>(found, {found.size()}), positions};
  }

 private:
  allreduce::DistinctRows distinct_;
};

template <typename Row>
void GatherRows(const py::array& table, const CArray<Row>& rows, py::array& out) {
  RequireRank("rows", rows, 1);
  const Span<const Row> ids = AsSpan("rows", rows);
  const py::ssize_t item = table.itemsize();
  if (table.ndim() != 2 || (table.flags() & py::array::c_style) == 0)
    throw py::value_error("table must have 2 dimensions and be C-contiguous");
  if (out.ndim() != 2 || out.shape(0) != ids.size() || out.shape(1) != table.shape(1) ||
      !out.dtype().is(table.dtype()) || (out.size() != 0 && out.strides(1) != item) ||
      out.strides(0) < 0)
    throw py::value_error("out must have shape (" + std::to_string(ids.size()) + ", " +
                          std::to_string(table.shape(1)) + "), the dtype of the table and " +
                          "contiguous rows");
  const auto* const bad = std::find_if(ids.begin(), ids.end(),
                                       [&](Row row) { return row < 0 || row >= table.shape(0); });
  if (bad != ids.end())
    throw py::index_error("rows[" + std::to_string(bad - ids.begin()) +
                          "] = " + std::to_string(*bad) + " is not in 0.." +
                          std::to_string(table.shape(0) - 1));
  const auto* const from = static_cast<const std::byte*>(table.data());
  auto* const to = static_cast<std::byte*>(out.mutable_data());
  const auto row_bytes = static_cast<std::size_t>(table.shape(1) * item);
  const auto stride = static_cast<std::size_t>(out.strides(0));
  const py::gil_scoped_release nogil;
  allreduce::GatherRows(from, row_bytes, ids, to, stride);
}

CArray<std::uint16_t> ToBfloat16(const CArray<float>& values) {
  const Span<const float> from = AsSpan("values", values);
  CArray<std::uint16_t> bits(
      std::vector<py::ssize_t>(values.shape(), values.shape() + values.ndim()));
  allreduce::ToBfloat16(from, AsMutableSpan(bits));
  return bits;
}

CArray<float> FromBfloat16(const CArray<std::uint16_t>& bits) {
  const Span<const std::uint16_t> from = AsSpan("bits", bits);
  CArray<float> values(std::vector<py::ssize_t>(bits.shape(), bits.shape() + bits.ndim()));
  allreduce::FromBfloat16(from, AsMutableSpan(values));
  return values;
}

}  // namespace

void RegisterSparseRows(py::module_& m) {
  py::class_<PyRowAccumulator>(m, "RowAccumulator")
      .def(py::init<std::int64_t>(), py::arg("dim"))
      .def_property_readonly("dim", &PyRowAccumulator::dim)
      .def_property_readonly("num_rows", &PyRowAccumulator::num_rows)
      .def_property_readonly("num_slices", &PyRowAccumulator::num_slices)
      .def("add", &PyRowAccumulator::Add, py::arg("rows").noconvert(),
           py::arg("values").noconvert())
      .def("take", &PyRowAccumulator::Take)
      .def("discard", &PyRowAccumulator::Discard);
  m.def("unique_rows", &UniqueRows, py::arg("rows").noconvert());
  m.def("unique_codes", &UniqueCodes, py::arg("codes").noconvert());
  m.def("partition_rows", &PartitionRows, py::arg("rows").noconvert(),
        py::arg("first_rows").noconvert());
  m.def("merge_rows", &MergeRows, py::arg("lists"), py::arg("dim"), py::arg("scale"));
  py::class_<PyDistinctRows>(m, "DistinctRows")
      .def(py::init<>())
      .def("find", &PyDistinctRows::Find, py::arg("rows").noconvert());
  m.def("gather_rows", &GatherRows<std::int32_t>, py::arg("table"), py::arg("rows").noconvert(),
        py::arg("out"));
  m.def("gather_rows", &GatherRows<std::int64_t>, py::arg("table"), py::arg("rows").noconvert(),
        py::arg("out"));
  m.def("to_bfloat16", &ToBfloat16, py::arg("values").noconvert());
  m.def("from_bfloat16", &FromBfloat16, py::arg("bits").noconvert());
}

}  // namespace feedfast::bindings
