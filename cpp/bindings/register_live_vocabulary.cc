#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cpp/bindings/arrays.h"
#include "cpp/bindings/registers.h"
#include "cpp/bindings/status_to_python.h"
#include "cpp/bindings/string_keys.h"
#include "cpp/mph/live_vocabulary.h"

namespace py = pybind11;

namespace feedfast::bindings {
namespace {

using mph::LiveVocabulary;

std::unique_ptr<LiveVocabulary> Create(const mph::Vocabulary& snapshot, std::int64_t capacity,
                                       int min_count, double expire_after,
                                       std::int64_t max_key_bytes, std::uint64_t seed) {
  mph::LiveOptions options;
  options.capacity = capacity;
  options.min_count = min_count;
  options.expire_after = expire_after;
  options.max_key_bytes = max_key_bytes;
  options.seed = seed;
  return ValueOrThrow(LiveVocabulary::Create(snapshot, options));
}

std::unique_ptr<LiveVocabulary> FromImage(const mph::Vocabulary& snapshot,
                                          const py::buffer& image) {
  const py::buffer_info info = image.request();
  if (info.ndim != 1 || info.itemsize != 1 || (info.size > 0 && info.strides[0] != 1))
    throw py::value_error("image must be contiguous bytes");
  auto result = [&] {
    py::gil_scoped_release nogil;
    return LiveVocabulary::FromImage(snapshot,
                                     {static_cast<const std::uint8_t*>(info.ptr), info.size});
  }();
  return ValueOrThrow(std::move(result));
}

CArray<std::int64_t> Lookup(const LiveVocabulary& live, const py::object& keys, int threads) {
  if (threads < 1)
    throw py::value_error("threads must be at least 1; got " + std::to_string(threads));
  const std::unique_ptr<mph::KeySource> source = MakeKeySource(keys, "keys");
  CArray<std::int64_t> rows(source->size());
  const Span<std::int64_t> out = AsMutableSpan(rows);
  {
    py::gil_scoped_release nogil;
    live.LookupAll(*source, threads, out);
  }
  return rows;
}

CArray<std::int64_t> Observe(LiveVocabulary& live, const py::object& keys, double time,
                             bool keys_are_new) {
  const auto novelty =
      keys_are_new ? LiveVocabulary::Novelty::kAsserted : LiveVocabulary::Novelty::kUnknown;
  const std::unique_ptr<mph::KeySource> source = MakeKeySource(keys, "keys");
  CArray<std::int64_t> rows(source->size());
  const Span<std::int64_t> out = AsMutableSpan(rows);
  Status status;
  {
    py::gil_scoped_release nogil;
    status = live.Observe(*source, time, novelty, out);
  }
  ThrowIfError(status);
  return rows;
}

void Expire(LiveVocabulary& live, double time) {
  Status status;
  {
    py::gil_scoped_release nogil;
    status = live.Expire(time);
  }
  ThrowIfError(status);
}

CArray<std::int64_t> TakeEvictedRows(LiveVocabulary& live) {
  const std::vector<std::int64_t> rows = [&] {
    py::gil_scoped_release nogil;
    return live.TakeEvictedRows();
  }();
  return CArray<std::int64_t>(static_cast<py::ssize_t>(rows.size()), rows.data());
}

std::int64_t Compact(LiveVocabulary& live) {
  auto result = [&] {
    py::gil_scoped_release nogil;
    return live.Compact();
  }();
  return ValueOrThrow(std::move(result));
}

py::bytes Image(const LiveVocabulary& live) {
  const std::vector<std::uint8_t> image = [&] {
    py::gil_scoped_release nogil;
    return live.Image();
  }();
  return {reinterpret_cast<const char*>(image.data()), image.size()};
}

}  // namespace

void RegisterLiveVocabulary(py::module_& m) {
  py::class_<mph::LiveCounts>(m, "LiveCounts")
      .def_readonly("num_keys", &mph::LiveCounts::num_keys)
      .def_readonly("num_rows", &mph::LiveCounts::num_rows)
      .def_readonly("max_num_rows", &mph::LiveCounts::max_num_rows)
      .def_readonly("num_segments", &mph::LiveCounts::num_segments)
      .def_readonly("num_frozen", &mph::LiveCounts::num_frozen)
      .def_readonly("num_overlay", &mph::LiveCounts::num_overlay)
      .def_readonly("num_exceptions", &mph::LiveCounts::num_exceptions)
      .def_readonly("num_refused", &mph::LiveCounts::num_refused)
      .def_readonly("nbytes", &mph::LiveCounts::nbytes);
  py::class_<LiveVocabulary>(m, "LiveVocabulary")
      .def(py::init(&Create), py::arg("snapshot"), py::kw_only(), py::arg("capacity"),
           py::arg("min_count"), py::arg("expire_after"), py::arg("max_key_bytes"), py::arg("seed"),
           py::keep_alive<1, 2>())
      .def_static("from_image", &FromImage, py::arg("snapshot"), py::arg("image"),
                  py::keep_alive<0, 1>())
      .def("lookup", &Lookup, py::arg("keys"), py::arg("threads"))
      .def("observe", &Observe, py::arg("keys"), py::arg("time"), py::kw_only(), py::arg("new"))
      .def("expire", &Expire, py::arg("time"))
      .def("take_evicted_rows", &TakeEvictedRows)
      .def("compact", &Compact)
      .def("image", &Image)
      .def("counts", &LiveVocabulary::Counts);
}

}  // namespace feedfast::bindings
