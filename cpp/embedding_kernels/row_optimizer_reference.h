#ifndef FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_OPTIMIZER_REFERENCE_H_
#define FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_OPTIMIZER_REFERENCE_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <vector>

#include "cpp/embedding_kernels/row_optimizer.h"

// Double-precision oracle of the row-wise optimizers, for tests and benchmarks only.
namespace feedfast::embedding_kernels::reference {

// The touched rows of a gradient, duplicates summed.
using DenseRows = std::map<std::int64_t, std::vector<double>>;

// A table with its states, all as doubles; the formulas of UpdateRule and nothing else.
struct OptimizedTable {
  std::int64_t dim = 0;
  std::vector<double> weights;    // [num_rows, dim]
  std::vector<double> states[2];  // [num_rows, dim]; row-wise states repeat over the row

  void Step(const RowOptimizer& o, DenseRows gradient) {
    Clip(o, &gradient);
    const auto step = static_cast<double>(o.step);
    const double alpha = o.learning_rate * std::sqrt(1.0 - std::pow(double{o.beta2}, step)) /
                         (1.0 - std::pow(double{o.beta1}, step));
    for (auto& [row, g] : gradient) {
      const auto at = static_cast<std::size_t>(row * dim);
      double mean = 0.0;
      for (std::size_t j = 0; j < g.size(); ++j) {
        if (o.weight_decay_mode == WeightDecayMode::kL2) g[j] += o.weight_decay * weights[at + j];
        mean += g[j] * g[j] / static_cast<double>(dim);
      }
      for (std::size_t j = 0; j < g.size(); ++j) {
        double& w = weights[at + j];
        double& s0 = states[0][at + j];
        double& s1 = states[1][at + j];
        if (o.weight_decay_mode == WeightDecayMode::kDecouple)
          w -= o.learning_rate * o.weight_decay * w;
        const bool rowwise =
            o.rule == UpdateRule::kRowwiseAdagrad || o.rule == UpdateRule::kRowwiseAdam;
        const double square = rowwise ? mean : g[j] * g[j];
        switch (o.rule) {
          case UpdateRule::kSgd:
            w -= o.learning_rate * g[j];
            break;
          case UpdateRule::kAdagrad:
          case UpdateRule::kRowwiseAdagrad:
            s0 += square;
            w -= o.learning_rate * g[j] / (std::sqrt(s0) + o.epsilon);
            break;
          case UpdateRule::kAdam:
          case UpdateRule::kRowwiseAdam:
            s0 = o.beta1 * s0 + (1.0 - o.beta1) * g[j];
            s1 = o.beta2 * s1 + (1.0 - o.beta2) * square;
            w -= alpha * s0 / (std::sqrt(s1) + o.epsilon);
            break;
        }
      }
    }
  }

 private:
  static double Norm(const std::vector<double>& g) {
    double squares = 0.0;
    for (const double x : g) squares += x * x;
    return std::sqrt(squares);
  }

  static void Clip(const RowOptimizer& o, DenseRows* gradient) {
    const double most = o.max_gradient;
    double norm_of_all = 0.0;
    for (const auto& [row, g] : *gradient) norm_of_all = std::hypot(norm_of_all, Norm(g));
    for (auto& [row, g] : *gradient) {
      double scale = 1.0;
      if (o.clipping == GradientClipping::kNorm && norm_of_all > most) scale = most / norm_of_all;
      if (o.clipping == GradientClipping::kRowNorm && Norm(g) > most) scale = most / Norm(g);
      for (double& x : g) {
        x *= scale;
        if (o.clipping == GradientClipping::kValue) x = std::clamp(x, -most, most);
      }
    }
  }
};

}  // namespace feedfast::embedding_kernels::reference

#endif  // FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_OPTIMIZER_REFERENCE_H_
