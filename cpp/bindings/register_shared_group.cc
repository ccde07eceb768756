#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <cmath>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "cpp/allreduce/shared_collectives.h"
#include "cpp/allreduce/shared_group.h"
#include "cpp/bindings/arrays.h"
#include "cpp/bindings/registers.h"
#include "cpp/bindings/status_to_python.h"

namespace py = pybind11;

namespace feedfast::bindings {
namespace {

using allreduce::SharedGroup;
using ByteArray = CArray<std::uint8_t>;

// Has Python a signal to handle whose handler raised, such as that of Ctrl-C? For waits without the
// GIL; the exception is then set in this thread, which has to throw it.
bool SignalRaised() {
  const py::gil_scoped_acquire gil;
  // A wait may ask again on its way out, when the signal is handled already.
  return PyErr_Occurred() != nullptr || PyErr_CheckSignals() != 0;
}

// A group that ends when it is closed or collected. Exchanges run without the GIL; a second thread
// gets an error, since the order of the exchanges would be left to chance. A wait that a signal
// interrupts raises what its handler raised, and this process has then left the group.
class PySharedGroup {
 public:
  PySharedGroup(std::string name, int rank, int size, std::int64_t buffer_bytes, double timeout)
      : rank_(rank), size_(size) {
    if (!(timeout > 0.0) || timeout > 1e9)
      throw py::value_error("timeout = " + std::to_string(timeout) + " s is not in (0, 1e9]");
    const allreduce::SharedGroupOptions options{
        std::move(name),
        rank,
        size,
        buffer_bytes,
        std::chrono::milliseconds(static_cast<std::int64_t>(std::ceil(timeout * 1e3))),
        SignalRaised};
    auto joined = [&] {
      const py::gil_scoped_release nogil;
      return SharedGroup::Join(options);
    }();
    ThrowIfRaised();
    group_ = ValueOrThrow(std::move(joined));
  }

  int rank() const { return rank_; }
  int size() const { return size_; }

  void Close() {
    const py::gil_scoped_release nogil;
    const std::lock_guard lock(mutex_);
    group_.reset();
  }

  void Barrier(const std::string& what) {
    Run([&](SharedGroup& group) { return allreduce::AgreedBarrier(group, what); });
  }

  template <typename T>
  void AllReduce(CArray<T> array, const std::string& what) {
    RequireAligned("array", array);
    const Span<T> data = AsMutableSpan(array);
    Run([&](SharedGroup& group) { return allreduce::AllReduce<T>(group, what, data); });
  }

  void Broadcast(ByteArray array, int root, const std::string& what) {
    if (root < 0 || root >= size_)
      throw py::value_error("root = " + std::to_string(root) + " is not in 0.." +
                            std::to_string(size_ - 1));
    const Span<std::uint8_t> data = AsMutableSpan(array);
    Run([&](SharedGroup& group) { return allreduce::Broadcast(group, what, root, data); });
  }

  std::vector<ByteArray> AllGather(const ByteArray& mine, const std::string& what) {
    const Span<const std::uint8_t> bytes = AsSpan("mine", mine);
    std::vector<std::int64_t> counts(static_cast<std::size_t>(size_));
    std::vector<ByteArray> received;
    std::vector<std::uint8_t*> out;
    Run([&](SharedGroup& group) { return allreduce::BeginAllGather(group, what, bytes, counts); },
        [&] { out = NewArrays(counts, received); },
        [&](SharedGroup& group) { return allreduce::FinishAllGather(group, bytes, counts, out); });
    return received;
  }

  std::vector<ByteArray> AllToAll(const std::vector<ByteArray>& parts, const std::string& what) {
    const auto ranks = static_cast<std::size_t>(size_);
    if (parts.size() != ranks)
      throw py::value_error(std::to_string(parts.size()) + " parts for " + std::to_string(ranks) +
                            " processes");
    std::vector<allreduce::Bytes> sends;
    for (const ByteArray& part : parts) sends.push_back(AsSpan("parts", part));
    allreduce::SendCounts counts;
    std::vector<ByteArray> received;
    std::vector<std::uint8_t*> out;
    Run([&](SharedGroup& group) { return allreduce::BeginAllToAll(group, what, sends, counts); },
        [&] {
          std::vector<std::int64_t> bytes;
          for (std::size_t from = 0; from < ranks; ++from)
            bytes.push_back(counts[from * ranks + static_cast<std::size_t>(rank_)]);
          bytes[static_cast<std::size_t>(rank_)] = sends[static_cast<std::size_t>(rank_)].size();
          out = NewArrays(bytes, received);
        },
        [&](SharedGroup& group) { return allreduce::FinishAllToAll(group, sends, counts, out); });
    return received;
  }

 private:
  static void ThrowIfRaised() {
    if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  }

  // Makes `first` and `then` without the GIL, `between` with it.
  template <typename First, typename Between, typename Then>
  void Run(const First& first, const Between& between, const Then& then) {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock())
      ThrowAs(PyExc_RuntimeError, "two threads use the group at once; exchanges have one order");
    const auto without_gil = [&](const auto& call) {
      Status status;
      {
        const py::gil_scoped_release nogil;
        status = group_ == nullptr ? FailedPrecondition("the group is closed") : call(*group_);
      }
      ThrowIfRaised();
      ThrowIfError(status);
    };
    without_gil(first);
    try {
      between();
    } catch (...) {
      group_->Leave();  // the others are about to send what there is no room for
      throw;
    }
    without_gil(then);
  }
  template <typename Call>
  void Run(const Call& call) {
    Run(
        call, [] {}, [](SharedGroup&) { return OkStatus(); });
  }

  static std::vector<std::uint8_t*> NewArrays(const std::vector<std::int64_t>& sizes,
                                              std::vector<ByteArray>& arrays) {
    std::vector<std::uint8_t*> pointers;
    try {
      for (const std::int64_t size : sizes) {
        arrays.emplace_back(size);
        pointers.push_back(arrays.back().mutable_data());
      }
    } catch (const py::error_already_set& error) {
      if (!error.matches(PyExc_MemoryError)) throw;
      ThrowAs(PyExc_MemoryError,
              "no memory for the " +
                  std::to_string(std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0})) +
                  " bytes that the processes send here; this process has left the group");
    }
    return pointers;
  }

  const int rank_;
  const int size_;
  std::mutex mutex_;  // of group_
  std::unique_ptr<SharedGroup> group_;
};

}  // namespace

void RegisterSharedGroup(py::module_& m) {
  py::class_<PySharedGroup>(m, "SharedGroup")
      .def(py::init<std::string, int, int, std::int64_t, double>(), py::arg("name"), py::kw_only(),
           py::arg("rank"), py::arg("size"), py::arg("buffer_bytes"), py::arg("timeout"))
      .def_property_readonly("rank", &PySharedGroup::rank)
      .def_property_readonly("size", &PySharedGroup::size)
      .def("close", &PySharedGroup::Close)
      .def("barrier", &PySharedGroup::Barrier, py::arg("what"))
      .def("all_reduce", &PySharedGroup::AllReduce<float>, py::arg("array").noconvert(),
           py::arg("what"))
      .def("all_reduce", &PySharedGroup::AllReduce<double>, py::arg("array").noconvert(),
           py::arg("what"))
      .def("broadcast", &PySharedGroup::Broadcast, py::arg("array").noconvert(), py::arg("root"),
           py::arg("what"))
      .def("all_gather", &PySharedGroup::AllGather, py::arg("mine").noconvert(), py::arg("what"))
      .def("all_to_all", &PySharedGroup::AllToAll, py::arg("parts").noconvert(), py::arg("what"));
}

}  // namespace feedfast::bindings
