// Runs the compiled CUDA kernel where there is a device, and says so where there is none; the host
// test of pooled_lookup_cuda_body.h runs everywhere.
#include "cpp/embedding_kernels/pooled_lookup_cuda.h"

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "cpp/embedding_kernels/reference.h"
#include "tests/cpp/embedding_kernels/random_batch.h"

namespace feedfast::embedding_kernels {
namespace {

// `size` elements of device memory, filled from the host.
template <typename T>
class DeviceArray {
 public:
  DeviceArray(const T* data, std::size_t size) : size_(size) {
    EXPECT_EQ(cudaMalloc(&data_, size * sizeof(T) + 1), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(data_, data, size * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
  }
  explicit DeviceArray(const std::vector<T>& v) : DeviceArray(v.data(), v.size()) {}
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(data_); }

  T* get() const { return static_cast<T*>(data_); }
  std::vector<T> ToHost() const {
    std::vector<T> host(size_);
    EXPECT_EQ(cudaMemcpy(host.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost),
              cudaSuccess);
    return host;
  }

 private:
  void* data_ = nullptr;
  std::size_t size_;
};

class PooledLookupCudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    int devices = 0;
    const cudaError_t error = cudaGetDeviceCount(&devices);
    if (error != cudaSuccess || devices == 0)
      GTEST_SKIP() << "no CUDA device: " << cudaGetErrorString(error);
  }
};

TEST_F(PooledLookupCudaTest, MatchesTheReference) {
  constexpr std::int64_t kNumRows = 97;
  std::mt19937 rng(kSeed);
  for (const std::int64_t dim : {1, 7, 32, 33, 128})
    for (const RowFormat format : kFormats) {
      const OwnedTable table = RandomTable(format, kNumRows, dim, rng);
      const OwnedBags bags = RandomBags(kNumRows, 100, rng);
      const DeviceArray<std::uint8_t> rows(table.bytes);
      const DeviceArray<std::int64_t> values(bags.values);
      const DeviceArray<std::int64_t> offsets(bags.offsets);
      const DeviceArray<float> weights(bags.weights);
      for (const Pooling pooling : kPoolings)
        for (const bool weighted : {false, true}) {
          const Bags view = weighted ? bags.WeightedView() : bags.View();
          const DeviceArray<float> out(
              std::vector<float>(static_cast<std::size_t>(view.num_bags() * dim), NAN));
          ASSERT_EQ(PooledLookupCuda({rows.get(),
                                      dim,
                                      format,
                                      {values.get(), true},
                                      {offsets.get(), true},
                                      weighted ? weights.get() : nullptr,
                                      pooling,
                                      view.num_bags(),
                                      out.get(),
                                      dim},
                                     nullptr),
                    cudaSuccess);
          const std::vector<float> got = out.ToHost();
          const std::vector<double> want =
              reference::PooledLookup(table.decoded, dim, view, pooling);
          // As in pooled_lookup_test.cc.
          const double tolerance = IsQuantized(format) ? 2e-3 : 1e-4;
          for (std::size_t i = 0; i < want.size(); ++i)
            ASSERT_NEAR(got[i], want[i], tolerance) << i;
        }
    }
}

TEST_F(PooledLookupCudaTest, EmptyBatchLaunchesNothing) {
  const PooledLookupCudaArgs args{nullptr,         8,       RowFormat::kFloat32, {nullptr, true},
                                  {nullptr, true}, nullptr, Pooling::kSum,       0,
                                  nullptr,         8};
  EXPECT_EQ(PooledLookupCuda(args, nullptr), cudaSuccess);
}

}  // namespace
}  // namespace feedfast::embedding_kernels
