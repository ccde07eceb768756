#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cpp/bindings/arrays.h"
#include "cpp/bindings/registers.h"
#include "cpp/bindings/status_to_python.h"
#include "cpp/embedding_kernels/bags.h"
#include "cpp/embedding_kernels/row_gradient.h"
#include "cpp/embedding_kernels/row_optimizer.h"
#include "cpp/embedding_kernels/table.h"

namespace py = pybind11;

namespace feedfast::bindings {
namespace {

using namespace feedfast::embedding_kernels;  // NOLINT(google-build-using-namespace): the folder

// One table's rule with the memory of its sorts. Calls of one object take turns.
class RowUpdater {
 public:
  RowUpdater(const std::string& rule, float epsilon, float beta1, float beta2, float weight_decay,
             const std::string& weight_decay_mode, const std::string& clipping, float max_gradient,
             bool stochastic_rounding, std::uint64_t seed, int threads)
      : threads_(threads) {
    optimizer_.rule = ValueOrThrow(ParseUpdateRule(rule));
    optimizer_.epsilon = epsilon;
    optimizer_.beta1 = beta1;
    optimizer_.beta2 = beta2;
    optimizer_.weight_decay = weight_decay;
    optimizer_.weight_decay_mode = ValueOrThrow(ParseWeightDecayMode(weight_decay_mode));
    optimizer_.clipping = ValueOrThrow(ParseGradientClipping(clipping));
    optimizer_.max_gradient = max_gradient;
    optimizer_.stochastic_rounding = stochastic_rounding;
    optimizer_.seed = seed;
    if (threads < 1)
      throw py::value_error("threads must be at least 1; got " + std::to_string(threads));
    ThrowIfError(ValidateRowOptimizer(optimizer_));
  }

  std::vector<std::int64_t> StateColumns(std::int64_t dim) const {
    std::vector<std::int64_t> columns;
    for (int slot = 0; slot < kMaxStates; ++slot)
      if (const std::int64_t size = StateSize(optimizer_.rule, slot, dim); size > 0)
        columns.push_back(size);
    return columns;
  }

  // The gradient slices (rows[i], values[i, :]); row_squares as in RowGradient.
  void ApplyRows(py::array table, const std::string& format, std::vector<CArray<float>> states,
                 const CArray<std::int64_t>& rows, const CArray<float>& values, float learning_rate,
                 std::int64_t step, const std::optional<CArray<float>>& row_squares,
                 std::int64_t row_dim, std::int64_t first_row, std::int64_t first_column) {
    RequireRank("rows", rows, 1);
    RequireRank("values", values, 2);
    const TrainableTable view = View(&table, format, &states);
    RequireShape("values", values, rows.size(), view.dim);
    const Span<const std::int64_t> span = AsSpan("rows", rows);
    const RowOptimizer optimizer = At(learning_rate, step, first_row, first_column);
    if (row_squares) RequireRowSquares(*row_squares, row_dim, span, view.dim);
    const float* const squares = row_squares ? row_squares->data() : nullptr;
    const float* grad = values.data();
    Status status;
    {
      const py::gil_scoped_release nogil;
      const std::lock_guard<std::mutex> lock(mutex_);
      status = ValidateRows(span, view.num_rows);
      const bool unique = status.ok() && StrictlyAscending(span);
      if (status.ok() && !unique) status = groups_.GroupSlices(span);
      if (status.ok()) {
        RowGradient gradient = groups_.Gradient(grad, view.dim);
        if (unique) {
          gradient = RowGradient{};
          gradient.num_rows = span.size();
          gradient.rows = span.data();
          gradient.grad = grad;
          gradient.dim = view.dim;
          gradient.row_squares = squares;
          gradient.row_dim = row_dim;
        }
        ApplyRowGradient(view, optimizer, gradient, RunOnThreads(threads_));
      }
    }
    ThrowIfError(status);
  }

  // The gradient of pooled bags: grad [num_bags, dim].
  void ApplyBags(py::array table, const std::string& format, std::vector<CArray<float>> states,
                 const CArray<std::int64_t>& values, const CArray<std::int64_t>& offsets,
                 const std::optional<CArray<float>>& weights, const std::string& pooling_name,
                 const CArray<float>& grad, float learning_rate, std::int64_t step) {
    RequireRank("values", values, 1);
    RequireRank("offsets", offsets, 1);
    RequireRank("grad", grad, 2);
    Bags bags{AsSpan("values", values), AsSpan("offsets", offsets)};
    if (weights) {
      RequireRank("weights", *weights, 1);
      bags.weights = AsSpan("weights", *weights);
    }
    const Pooling pooling = ValueOrThrow(ParsePooling(pooling_name));
    const TrainableTable view = View(&table, format, &states);
    ThrowIfError(ValidateBags(bags, view.num_rows));
    RequireShape("grad", grad, bags.num_bags(), view.dim);
    const RowOptimizer optimizer = At(learning_rate, step);
    const float* from = grad.data();
    Status status;
    {
      const py::gil_scoped_release nogil;
      const std::lock_guard<std::mutex> lock(mutex_);
      status = groups_.Group(bags, pooling);
      if (status.ok())
        ApplyRowGradient(view, optimizer, groups_.Gradient(from, view.dim), RunOnThreads(threads_));
    }
    ThrowIfError(status);
  }

 private:
  static void RequireShape(const char* name, const py::array& array, std::int64_t rows,
                           std::int64_t columns) {
    if (array.shape(0) != rows || array.shape(1) != columns)
      throw py::value_error(std::string(name) + " must have shape [" + std::to_string(rows) + ", " +
                            std::to_string(columns) + "]; got [" + std::to_string(array.shape(0)) +
                            ", " + std::to_string(array.shape(1)) + "]");
  }

  void RequireRowSquares(const CArray<float>& row_squares, std::int64_t row_dim,
                         Span<const std::int64_t> rows, std::int64_t dim) const {
    RequireRank("row_squares", row_squares, 1);
    if (row_squares.size() != rows.size())
      throw py::value_error("row_squares has " + std::to_string(row_squares.size()) +
                            " elements; needs " + std::to_string(rows.size()));
    if (row_dim < dim)
      throw py::value_error("row_dim = " + std::to_string(row_dim) +
                            " is below the columns of the table, " + std::to_string(dim));
    if (!StrictlyAscending(rows))
      throw py::value_error("rows must ascend where row_squares are given");
    if (optimizer_.clipping != GradientClipping::kNone ||
        (optimizer_.weight_decay != 0.0f && optimizer_.weight_decay_mode == WeightDecayMode::kL2))
      throw py::value_error(
          "row_squares cannot be given with clipping or L2 decay, which change "
          "the gradient");
  }

  RowOptimizer At(float learning_rate, std::int64_t step, std::int64_t first_row = 0,
                  std::int64_t first_column = 0) const {
    RowOptimizer optimizer = optimizer_;
    optimizer.learning_rate = learning_rate;
    optimizer.step = step;
    optimizer.first_row = first_row;
    optimizer.first_column = first_column;
    ThrowIfError(ValidateRowOptimizer(optimizer));
    return optimizer;
  }

  // Contiguous arrays must not share memory.
  static void RequireApart(std::size_t slot, const py::array& state, const py::array& other,
                           const std::string& name) {
    const auto* a = static_cast<const char*>(state.data());
    const auto* b = static_cast<const char*>(other.data());
    const std::less<> before;
    if (before(a, b + other.nbytes()) && before(b, a + state.nbytes()))
      throw py::value_error("states[" + std::to_string(slot) + "] shares memory with " + name);
  }

  // mutable_data() refuses arrays that are not writeable.
  TrainableTable View(py::array* table, const std::string& format,
                      std::vector<CArray<float>>* states) const {
    RequireRank("table", *table, 2);
    if ((table->flags() & py::array::c_style) == 0)
      throw py::value_error("table must be C-contiguous");
    TrainableTable view;
    view.num_rows = table->shape(0);
    view.dim = table->shape(1);
    if (view.dim < 1) throw py::value_error("table must have at least 1 columns; got 0");
    if (format == "float32")
      view.format = RowFormat::kFloat32;
    else if (format == "float16")
      view.format = RowFormat::kFloat16;
    else if (format == "bfloat16")
      view.format = RowFormat::kBfloat16;
    else
      throw py::value_error("format must be one of 'float32', 'float16', 'bfloat16'; got '" +
                            format + "'");
    if (table->itemsize() != (view.format == RowFormat::kFloat32 ? 4 : 2))
      throw py::value_error("table has elements of " + std::to_string(table->itemsize()) +
                            " bytes, which are not " + format);
    const std::vector<std::int64_t> columns = StateColumns(view.dim);
    if (states->size() != columns.size())
      throw py::value_error("the rule has " + std::to_string(columns.size()) + " states; got " +
                            std::to_string(states->size()));
    view.data = table->mutable_data();
    for (std::size_t slot = 0; slot < columns.size(); ++slot) {
      CArray<float>& state = (*states)[slot];
      if (state.size() != view.num_rows * columns[slot])
        throw py::value_error("states[" + std::to_string(slot) + "] has " +
                              std::to_string(state.size()) + " elements; the rule needs " +
                              std::to_string(view.num_rows * columns[slot]));
      view.states[slot] = state.mutable_data();
      RequireApart(slot, state, *table, "table");
      for (std::size_t other = 0; other < slot; ++other)
        RequireApart(slot, state, (*states)[other], "states[" + std::to_string(other) + "]");
    }
    return view;
  }

  RowOptimizer optimizer_;
  int threads_;
  std::mutex mutex_;
  RowGroups groups_;  // guarded by mutex_
};

}  // namespace

void RegisterRowOptimizers(py::module_& m) {
  py::class_<RowUpdater>(m, "RowUpdater")
      .def(py::init<const std::string&, float, float, float, float, const std::string&,
                    const std::string&, float, bool, std::uint64_t, int>(),
           py::kw_only(), py::arg("rule"), py::arg("epsilon"), py::arg("beta1"), py::arg("beta2"),
           py::arg("weight_decay"), py::arg("weight_decay_mode"), py::arg("clipping"),
           py::arg("max_gradient"), py::arg("stochastic_rounding"), py::arg("seed"),
           py::arg("threads"))
      .def("state_columns", &RowUpdater::StateColumns, py::arg("dim"))
      .def("apply_rows", &RowUpdater::ApplyRows, py::arg("table").noconvert(), py::arg("format"),
           py::arg("states").noconvert(), py::arg("rows").noconvert(),
           py::arg("values").noconvert(), py::kw_only(), py::arg("learning_rate"), py::arg("step"),
           py::arg("row_squares").noconvert().none(true) = py::none(), py::arg("row_dim") = 0,
           py::arg("first_row") = 0, py::arg("first_column") = 0)
      .def("apply_bags", &RowUpdater::ApplyBags, py::arg("table").noconvert(), py::arg("format"),
           py::arg("states").noconvert(), py::arg("values").noconvert(),
           py::arg("offsets").noconvert(), py::arg("weights").noconvert().none(true),
           py::arg("pooling"), py::arg("grad").noconvert(), py::kw_only(), py::arg("learning_rate"),
           py::arg("step"));
}

}  // namespace feedfast::bindings
