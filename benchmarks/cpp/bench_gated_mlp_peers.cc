// The anchor network 512 -> [1024, 1024, 512] with hidden gates beside oneDNN's matmul with the
// same scales per output channel and the same epilogue fused as post-operations (relu; logistic and
// multiplication by h), one thread, in turns with the peak probe of the same run. oneDNN's int8
// layers get calibrated scales and an input that is uint8 already, so it does not look for ranges;
// its bf16 layers write bf16. Where LIBXSMM is installed its products take turns too, in fp32 and
// bf16 (xsmm_network.h). Counters are medians in microseconds.
#include <benchmark/benchmark.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <list>
#include <oneapi/dnnl/dnnl.hpp>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "benchmarks/cpp/gated_network.h"
#include "cpp/gated_mlp/gated_mlp.h"
#include "cpp/gated_mlp/peak_probe.h"
#include "cpp/gated_mlp/reference.h"
#ifdef FEEDFAST_HAVE_LIBXSMM
#include "benchmarks/cpp/xsmm_network.h"
#endif

namespace feedfast {
namespace {

using benchmarks::MakeNetwork;
using benchmarks::Network;
using benchmarks::Normal;
using dnnl::memory;

using Tag = memory::format_tag;
using Type = memory::data_type;

Type TypeOf(Precision precision, Type int8_type) {
  if (precision == Precision::kFp32) return Type::f32;
  return precision == Precision::kBf16 ? Type::bf16 : int8_type;
}

class OneDnnNetwork {
 public:
  // `ranges` are the largest values of the input and of each layer's activation.
  OneDnnNetwork(const Network& network, Precision precision, const std::vector<float>& x,
                std::int64_t batch, const std::vector<float>& ranges)
      : precision_(precision), batch_(batch) {
    const auto scale = [&](std::size_t i) {
      return precision == Precision::kInt8 ? ranges[i] / 255.0F : 1.0F;
    };
    memory input = Make({batch, network.layers[0].in}, TypeOf(precision, Type::u8));
    Fill(input, x, scale(0));
    for (std::size_t i = 0; i < network.layers.size(); ++i) {
      const GatedLayer& layer = network.layers[i];
      const bool last = i + 1 == network.layers.size();
      const float hidden_scale = scale(i + 1);
      memory hidden = Make({batch, layer.out}, TypeOf(precision, Type::u8));
      AddProduct(layer.weight, layer.bias, input, hidden, scale(i), hidden_scale, nullptr);
      memory out = Make({batch, layer.out}, last ? Type::f32 : TypeOf(precision, Type::u8));
      AddProduct(layer.gate_weight, layer.gate_bias, hidden, out, hidden_scale, 1.0F, &hidden);
      input = out;
      out_scale_ = hidden_scale;
    }
    out_ = input;
  }

  void Run() {
    for (auto& [primitive, arguments] : steps_) primitive.execute(stream_, arguments);
    stream_.wait();
  }
  float Output(std::int64_t i) const {
    return static_cast<const float*>(out_.get_data_handle())[i] * out_scale_;
  }

 private:
  memory Make(const memory::dims& dims, Type type) {
    return memory({dims, type, Tag::ab}, engine_);
  }

  // values / scale in the memory's type.
  static void Fill(const memory& target, const std::vector<float>& values, float scale) {
    void* data = target.get_data_handle();
    const auto size = static_cast<std::int64_t>(values.size());
    if (target.get_desc().data_type() == Type::u8) {
      for (std::size_t i = 0; i < values.size(); ++i)
        static_cast<std::uint8_t*>(data)[i] =
            static_cast<std::uint8_t>(std::clamp(std::nearbyint(values[i] / scale), 0.0F, 255.0F));
    } else if (target.get_desc().data_type() == Type::bf16) {
      RoundToBf16(values, {static_cast<std::uint16_t*>(data), size});
    } else {
      std::copy(values.begin(), values.end(), static_cast<float*>(data));
    }
  }

  // to = relu(from weights + bias), or hidden * logistic(from weights + bias) with `hidden`.
  void AddProduct(const WeightView& weights, Span<const float> bias, const memory& from,
                  const memory& to, float from_scale, float to_scale, const memory* hidden) {
    const memory::dim in = from.get_desc().dims()[1];
    const memory::dim out = to.get_desc().dims()[1];
    memory plain = Make({in, out}, TypeOf(precision_, Type::s8));
    const void* source = weights.floats().data();
    if (precision_ == Precision::kBf16) source = weights.bf16().data();
    if (precision_ == Precision::kInt8) source = weights.int8().data();
    std::memcpy(plain.get_data_handle(), source, plain.get_desc().get_size());
    memory bias_memory = Make({1, out}, Type::f32);
    auto* bias_values = static_cast<float*>(bias_memory.get_data_handle());
    dnnl::primitive_attr attributes;
    std::vector<float> scales(static_cast<std::size_t>(out), 1.0F);
    for (memory::dim j = 0; j < out; ++j) {
      bias_values[j] = bias[j];
      if (precision_ != Precision::kInt8) continue;
      // This version multiplies the bias by the scale, too.
      const float product_scale = from_scale * weights.scales()[j];
      bias_values[j] /= product_scale;
      scales[static_cast<std::size_t>(j)] = product_scale / to_scale;
    }
    if (precision_ == Precision::kInt8) attributes.set_output_scales(1U << 1U, scales);
    dnnl::post_ops epilogue;
    if (hidden == nullptr) {
      epilogue.append_eltwise(1.0F, dnnl::algorithm::eltwise_relu, 0, 0);
    } else {
      epilogue.append_eltwise(1.0F, dnnl::algorithm::eltwise_logistic, 0, 0);
      epilogue.append_binary(dnnl::algorithm::binary_mul, hidden->get_desc());
    }
    attributes.set_post_ops(epilogue);
    const dnnl::matmul::primitive_desc description(
        {from.get_desc(),
         {{in, out}, TypeOf(precision_, Type::s8), Tag::any},
         bias_memory.get_desc(),
         to.get_desc()},
        attributes, engine_);
    memory packed(description.weights_desc(), engine_);
    dnnl::reorder(plain, packed).execute(stream_, plain, packed);
    stream_.wait();
    std::unordered_map<int, memory> arguments = {{DNNL_ARG_SRC, from},
                                                 {DNNL_ARG_WEIGHTS, packed},
                                                 {DNNL_ARG_BIAS, bias_memory},
                                                 {DNNL_ARG_DST, to}};
    if (hidden != nullptr) arguments[DNNL_ARG_ATTR_MULTIPLE_POST_OP(1) | DNNL_ARG_SRC_1] = *hidden;
    steps_.emplace_back(dnnl::matmul(description), std::move(arguments));
  }

  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  Precision precision_;
  std::int64_t batch_;
  std::vector<std::pair<dnnl::primitive, std::unordered_map<int, memory>>> steps_;
  memory out_;
  float out_scale_ = 1.0F;
};

// Largest value of the input and of each layer's activation before its gate.
std::vector<float> Ranges(const Network& network, const std::vector<float>& x, std::int64_t batch) {
  std::vector<float> ranges = {*std::max_element(x.begin(), x.end())};
  const std::int64_t rows = std::min<std::int64_t>(batch, 2);
  std::vector<std::vector<double>> values;
  for (std::int64_t r = 0; r < rows; ++r)
    values.emplace_back(x.begin() + r * network.layers[0].in,
                        x.begin() + (r + 1) * network.layers[0].in);
  for (const GatedLayer& layer : network.layers) {
    GatedLayer open = layer;
    open.gate = Gate::kNone;
    double largest = 0;
    for (std::vector<double>& row : values) {
      for (const double value : reference::Forward(open, row)) largest = std::max(largest, value);
      row = reference::Forward(layer, row);
    }
    ranges.push_back(static_cast<float>(largest) * 1.2F);
  }
  return ranges;
}

double Median(std::vector<double>& values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

void BM_BesideOneDnn(benchmark::State& state, Precision precision) {
  omp_set_num_threads(1);
  const std::int64_t batch = state.range(0);
  const Network network = MakeNetwork(Gate::kHidden, 0, precision);
  const GatedMlp mlp = GatedMlp::Create(network.layers).value();
  std::mt19937 rng(7);
  std::vector<float> x = Normal(batch * mlp.num_inputs(), 1.0F, rng);
  for (float& value : x) value = std::abs(value);  // uint8 without a zero point
  std::vector<float> out(static_cast<std::size_t>(batch * mlp.num_outputs()));
  GatedMlpWorkspace workspace(mlp, batch);
  OneDnnNetwork peer(network, precision, x, batch, Ranges(network, x, batch));
  const auto ours = [&] {
    mlp.Forward(x.data(), batch, mlp.num_inputs(), out.data(), mlp.num_outputs(), workspace);
    benchmark::ClobberMemory();
  };
  const double operations = 2.0 * static_cast<double>(network.multiply_adds_per_row * batch);
  // About as long as a call, so that a busy machine interrupts all alike.
  const std::int64_t steps =
      std::max<std::int64_t>(1, static_cast<std::int64_t>(operations) / PeakProbe(precision, 1));
  std::int64_t peak_operations = 0;
  std::vector<std::function<void()>> calls = {
      ours, [&] { peer.Run(); }, [&] { peak_operations = PeakProbe(precision, steps); }};
#ifdef FEEDFAST_HAVE_LIBXSMM
  std::optional<benchmarks::XsmmNetwork> xsmm;
  if (precision != Precision::kInt8) {
    xsmm.emplace(network, precision, x, batch);
    calls.emplace_back([&] { xsmm->Run(); });
  }
#endif
  for (const auto& call : calls) call();
  double error = 0;
  double size = 0;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const double difference = out[i] - peer.Output(static_cast<std::int64_t>(i));
    error += difference * difference;
    size += static_cast<double>(out[i]) * out[i];
  }
  // Two ways to round the same products; fp32 differs in the last places alone.
  const double allowed = precision == Precision::kFp32 ? 1e-5 : 0.05;
  if (std::sqrt(error / size) > allowed) return state.SkipWithError("the outputs differ");
#ifdef FEEDFAST_HAVE_LIBXSMM
  for (std::size_t i = 0; xsmm.has_value() && i < out.size(); ++i)
    if (!(std::abs(out[i] - xsmm->Output(static_cast<std::int64_t>(i))) < allowed))
      return state.SkipWithError("LIBXSMM's outputs differ");
#endif
  // A few calls of one kind together: at batch 1 the weights come from the cache, as they would.
  const int calls_at_a_time = batch < 16 ? 20 : batch < 64 ? 4 : 1;
  std::vector<std::vector<double>> taken(calls.size());
  for (auto _ : state) {
    for (std::size_t which = 0; which < calls.size(); ++which) {
      calls[which]();
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < calls_at_a_time; ++i) calls[which]();
      const std::chrono::duration<double, std::micro> elapsed =
          std::chrono::steady_clock::now() - start;
      taken[which].push_back(elapsed.count() / calls_at_a_time);
    }
  }
  const double ours_us = Median(taken[0]);
  const double peer_us = Median(taken[1]);
  const double peak = static_cast<double>(peak_operations) / Median(taken[2]) / 1e3;
  state.counters["ours_us"] = ours_us;
  state.counters["onednn_us"] = peer_us;
  if (calls.size() > 3) state.counters["libxsmm_us"] = Median(taken[3]);
  state.counters["ours_gops"] = operations / ours_us / 1e3;
  state.counters["peak_gops"] = peak;
  state.counters["of_peak"] = operations / ours_us / 1e3 / peak;
  state.counters["error"] = std::sqrt(error / size);
}

void Batches(benchmark::internal::Benchmark* bench) {
  for (const int batch : {1, 16, 64, 256, 512}) bench->Arg(batch)->Unit(benchmark::kMillisecond);
}
BENCHMARK_CAPTURE(BM_BesideOneDnn, fp32, Precision::kFp32)->Apply(Batches);
BENCHMARK_CAPTURE(BM_BesideOneDnn, bf16, Precision::kBf16)->Apply(Batches);
BENCHMARK_CAPTURE(BM_BesideOneDnn, int8, Precision::kInt8)->Apply(Batches);

}  // namespace
}  // namespace feedfast
