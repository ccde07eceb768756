#ifndef FEEDFAST_BENCHMARKS_CPP_XSMM_NETWORK_H_
#define FEEDFAST_BENCHMARKS_CPP_XSMM_NETWORK_H_

#include <libxsmm.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "benchmarks/cpp/gated_network.h"
#include "cpp/gated_mlp/packed_matrix.h"

namespace feedfast::benchmarks {

// The network on LIBXSMM's batch-reduce products (fp32, and bf16 with float32 sums): weights in
// blocks of 64 x 64, packed once, 48 rows at a time through all layers, as ours are. LIBXSMM is
// column-major: it gets y^T = W^T x^T. Bias, relu and gate run over a block of y while it is in the
// cache, with our own sigmoid and our own rounding to bfloat16.
class XsmmNetwork {
 public:
  XsmmNetwork(const Network& network, Precision precision, const std::vector<float>& x,
              std::int64_t batch)
      : precision_(precision), batch_(batch), x_(x), in_(network.layers[0].in) {
    for (const GatedLayer& layer : network.layers) {
      AddProduct(layer.weight, layer.bias, layer.in, layer.out);
      AddProduct(layer.gate_weight, layer.gate_bias, layer.out, layer.out);
      widest_ = std::max({widest_, layer.in, layer.out});
    }
    const std::int64_t rows = std::min(batch, kRows);
    for (auto& buffer : buffers_) buffer.resize(static_cast<std::size_t>(rows * widest_));
    words_.resize(static_cast<std::size_t>(rows * widest_));
    out_.resize(static_cast<std::size_t>(batch * products_.back().out));
  }

  void Run() {
    for (std::int64_t row = 0; row < batch_; row += kRows) {
      const std::int64_t rows = std::min(kRows, batch_ - row);
      const float* input = x_.data() + row * in_;
      for (std::size_t i = 0; i < products_.size(); i += 2) {
        float* hidden = buffers_[0].data();
        float* y =
            i + 2 == products_.size() ? out_.data() + row * products_[i].out : buffers_[1].data();
        Multiply(products_[i], input, rows, hidden, nullptr);
        Multiply(products_[i + 1], hidden, rows, y, hidden);
        input = y;
      }
    }
  }
  float Output(std::int64_t i) const { return out_[static_cast<std::size_t>(i)]; }

 private:
  static constexpr std::int64_t kRows = 48;
  static constexpr std::int64_t kBlock = 64;

  struct Product {
    std::int64_t in;
    std::int64_t out;
    std::vector<float> bias;
    std::vector<unsigned char> blocks;
    // By the number of rows: whole blocks and what is left behind them.
    libxsmm_xmmfunction whole;
    libxsmm_xmmfunction rest;
  };

  libxsmm_xmmfunction Generate(std::int64_t rows, std::int64_t in, std::int64_t out) const {
    libxsmm_xmmfunction kernel = {};
    if (rows == 0) return kernel;
    const auto lda = static_cast<libxsmm_blasint>(kBlock);
    const auto ldb = static_cast<libxsmm_blasint>(in);
    const auto ldc = static_cast<libxsmm_blasint>(out);
    const auto n = static_cast<libxsmm_blasint>(rows);
    const auto element = static_cast<libxsmm_blasint>(precision_ == Precision::kBf16 ? 2 : 4);
    const libxsmm_blasint stride_a = lda * lda * element;
    const libxsmm_blasint stride_b = lda * element;
    const float one = 1.0F;
    if (precision_ == Precision::kBf16)
      kernel.bsmrs = libxsmm_bsmmdispatch_reducebatch_strd(
          lda, n, lda, stride_a, stride_b, &lda, &ldb, &ldc, &one, &one, nullptr, nullptr);
    else
      kernel.smrs = libxsmm_smmdispatch_reducebatch_strd(lda, n, lda, stride_a, stride_b, &lda,
                                                         &ldb, &ldc, &one, &one, nullptr, nullptr);
    if (kernel.xmm == nullptr) std::abort();
    return kernel;
  }

  void AddProduct(const WeightView& weight, Span<const float> bias, std::int64_t in,
                  std::int64_t out) {
    Product product{in,
                    out,
                    {bias.begin(), bias.end()},
                    {},
                    Generate(std::min(batch_, kRows), in, out),
                    Generate(batch_ % kRows, in, out)};
    const std::int64_t group = precision_ == Precision::kBf16 ? 2 : 1;
    const std::int64_t element = 4 / group;
    product.blocks.resize(static_cast<std::size_t>(in * out * element));
    const auto* values = precision_ == Precision::kBf16
                             ? reinterpret_cast<const unsigned char*>(weight.bf16().data())
                             : reinterpret_cast<const unsigned char*>(weight.floats().data());
    for (std::int64_t k = 0; k < in; ++k)
      for (std::int64_t j = 0; j < out; ++j) {
        const std::int64_t block = j / kBlock * (in / kBlock) + k / kBlock;
        const std::int64_t inside = (k % kBlock / group * kBlock + j % kBlock) * group + k % group;
        std::memcpy(product.blocks.data() + (block * kBlock * kBlock + inside) * element,
                    values + (k * out + j) * element, static_cast<std::size_t>(element));
      }
    products_.push_back(std::move(product));
  }

  __attribute__((target_clones("avx512f", "default"))) static void Relu(float* y,
                                                                        std::int64_t size) {
    for (std::int64_t j = 0; j < size; ++j) y[j] = y[j] < 0 ? 0 : y[j];
  }
  __attribute__((target_clones("avx512f", "default"))) static void Scale(const float* factors,
                                                                         std::int64_t size,
                                                                         float* y) {
    for (std::int64_t j = 0; j < size; ++j) y[j] *= factors[j];
  }

  // y = relu(x W + b), or hidden * sigmoid(x W + b).
  void Multiply(const Product& product, const float* x, std::int64_t rows, float* y,
                const float* hidden) {
    const libxsmm_xmmfunction kernel =
        rows == std::min(batch_, kRows) ? product.whole : product.rest;
    const auto count = static_cast<unsigned long long>(product.in / kBlock);
    if (precision_ == Precision::kBf16)
      gated_mlp::Convert(Precision::kBf16, {nullptr, 0, x, product.in, product.in, rows,
                                            words_.data(), product.in / 2, nullptr});
    const std::int64_t block_bytes = product.in * kBlock * (precision_ == Precision::kBf16 ? 2 : 4);
    for (std::int64_t first = 0; first < product.out; first += kBlock) {
      for (std::int64_t r = 0; r < rows; ++r)
        std::copy_n(product.bias.data() + first, kBlock, y + r * product.out + first);
      const unsigned char* block = product.blocks.data() + first / kBlock * block_bytes;
      if (precision_ == Precision::kBf16)
        kernel.bsmrs(reinterpret_cast<const libxsmm_bfloat16*>(block),
                     reinterpret_cast<const libxsmm_bfloat16*>(words_.data()), y + first, &count);
      else
        kernel.smrs(reinterpret_cast<const float*>(block), x, y + first, &count);
      for (std::int64_t r = 0; r < rows; ++r) {
        float* row = y + r * product.out + first;
        if (hidden == nullptr) {
          Relu(row, kBlock);
        } else {
          Sigmoid({row, kBlock});
          Scale(hidden + r * product.out + first, kBlock, row);
        }
      }
    }
  }

  Precision precision_;
  std::int64_t batch_;
  const std::vector<float>& x_;
  std::int64_t in_;
  std::int64_t widest_ = 0;
  std::vector<Product> products_;
  std::vector<float> buffers_[2];
  std::vector<std::uint32_t> words_;
  std::vector<float> out_;
};

}  // namespace feedfast::benchmarks

#endif  // FEEDFAST_BENCHMARKS_CPP_XSMM_NETWORK_H_
