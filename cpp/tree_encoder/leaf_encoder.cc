#include "cpp/tree_encoder/leaf_encoder.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "cpp/tree_encoder/xgboost_model.h"

namespace feedfast::tree_encoder {
namespace {

bool MachineHasVbmi() {
#if defined(FEEDFAST_X86)
  static const bool has_vbmi = [] {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512vbmi") != 0;
  }();
  return has_vbmi;
#else
  return false;
#endif
}

// VBMI is no target of its own: the AVX-512 targets use it where the machine has it, because the
// leaves are the same.
bool UsesRankedForest() { return ActiveCpuTarget() >= CpuTarget::kAvx512 && MachineHasVbmi(); }

}  // namespace

StatusOr<LeafEncoder> LeafEncoder::FromXgboost(Span<const std::uint8_t> model, RoundRange rounds) {
  StatusOr<Forest> forest = ReadXgboostModel(model, rounds);
  if (!forest.ok()) return forest.status();
  return LeafEncoder(std::move(forest).value());
}

StatusOr<LeafEncoder> LeafEncoder::FromImage(Span<const std::uint8_t> image) {
  StatusOr<Forest> forest = ForestFromImage(image);
  if (!forest.ok()) return forest.status();
  return LeafEncoder(std::move(forest).value());
}

LeafEncoder::LeafEncoder(Forest forest) : forest_(std::move(forest)) {
  const std::int64_t num_nodes =
      static_cast<std::int64_t>(forest_.splits.size()) + forest_.num_leaves();
  nodes_ = AlignedBuffer<EncoderNode>(num_nodes);
  leaf_rows_ = AlignedBuffer<std::int32_t>(num_nodes);
  trees_ = AlignedBuffer<EncoderTree>(forest_.num_trees());

  struct Pending {
    std::int32_t child;  // as in Split
    std::int32_t level;
  };
  std::vector<Pending> queue;  // of one tree, in the order of its nodes here
  std::int32_t root = 0;
  for (const Split& split : forest_.splits) categorical_ |= split.set != kNoSet;
  for (std::int32_t tree = 0; tree < forest_.num_trees(); ++tree) {
    const auto t = static_cast<std::size_t>(tree);
    const Split* const splits = forest_.splits.data() + forest_.split_offsets[t];
    const bool lone_leaf = forest_.split_offsets[t + 1] == forest_.split_offsets[t];
    queue.assign(1, {lone_leaf ? ~0 : 0, 0});
    for (std::size_t i = 0; i < queue.size(); ++i) {
      const Pending pending = queue[i];
      const std::int32_t index = root + static_cast<std::int32_t>(i);
      EncoderNode& node = nodes_[index];
      if (pending.child < 0) {
        node = {{0.0F}, 0, {index, index}};
        leaf_rows_[index] = forest_.leaf_offsets[t] + ~pending.child;
        continue;
      }
      const Split& split = splits[pending.child];
      const auto left = root + static_cast<std::int32_t>(queue.size());
      node = {{split.threshold},
              4 * static_cast<std::uint32_t>(split.feature) +
                  static_cast<std::uint32_t>(split.default_left),
              {left, left + 1}};
      if (split.set != kNoSet) {
        node.set = split.set;
        node.feature += 2;
      }
      queue.push_back({split.left, pending.level + 1});
      queue.push_back({split.right, pending.level + 1});
    }
    trees_[tree] = {root, queue.back().level};
    root += static_cast<std::int32_t>(queue.size());
    most_leaves_ = std::max(most_leaves_, forest_.leaf_offsets[t + 1] - forest_.leaf_offsets[t]);
  }
  if (MachineHasVbmi()) ranked_ = RankedForest(forest_);
}

LeafEncoderArgs LeafEncoder::Args(const float* x, std::int64_t num_rows,
                                  std::int64_t x_stride) const noexcept {
  return {nodes_.data(), leaf_rows_.data(), trees_.data(), forest_.leaf_offsets.data(),
          trees_.size(), forest_.sets(),    categorical_,  x,
          num_rows,      x_stride};
}

RankedLeavesArgs LeafEncoder::RankedArgs(const float* x, std::int64_t num_rows,
                                         std::int64_t x_stride) const noexcept {
  RankedLeavesArgs args = ranked_.args();
  args.leaf_offsets = forest_.leaf_offsets.data();
  args.x = x;
  args.num_rows = num_rows;
  args.x_stride = x_stride;
  return args;
}

void LeafEncoder::Encode(const float* x, std::int64_t num_rows, std::int64_t x_stride,
                         std::int32_t* out) const noexcept {
#if defined(FEEDFAST_X86)
  if (!ranked_.empty() && UsesRankedForest())
    return avx512_vbmi::EncodeRankedLeaves(RankedArgs(x, num_rows, x_stride), out);
#endif
  static constexpr KernelTable<decltype(&scalar::EncodeLeaves)> kEncodeLeaves =
      FEEDFAST_KERNEL_TABLE(EncodeLeaves);
  kEncodeLeaves.Get()(Args(x, num_rows, x_stride), out);
}

Status LeafEncoder::CheckOrdinals() const {
  if (most_leaves_ <= kMaxOrdinals) return OkStatus();
  std::size_t tree = 0;
  while (forest_.leaf_offsets[tree + 1] - forest_.leaf_offsets[tree] <= kMaxOrdinals) ++tree;
  return InvalidArgument("tree ", tree, " has ",
                         forest_.leaf_offsets[tree + 1] - forest_.leaf_offsets[tree],
                         " leaves; ordinals of one byte hold ", kMaxOrdinals);
}

void LeafEncoder::EncodeOrdinals(const float* x, std::int64_t num_rows, std::int64_t x_stride,
                                 std::uint8_t* out) const noexcept {
#if defined(FEEDFAST_X86)
  if (!ranked_.empty() && UsesRankedForest())
    return avx512_vbmi::EncodeRankedOrdinals(RankedArgs(x, num_rows, x_stride), out);
#endif
  static constexpr KernelTable<decltype(&scalar::EncodeOrdinals)> kEncodeOrdinals =
      FEEDFAST_KERNEL_TABLE(EncodeOrdinals);
  kEncodeOrdinals.Get()(Args(x, num_rows, x_stride), out);
}

}  // namespace feedfast::tree_encoder
