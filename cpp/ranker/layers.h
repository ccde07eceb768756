#ifndef FEEDFAST_CPP_RANKER_LAYERS_H_
#define FEEDFAST_CPP_RANKER_LAYERS_H_

#include <string>

#include "cpp/common/status.h"
#include "cpp/gated_mlp/cross_network.h"
#include "cpp/gated_mlp/gated_mlp.h"
#include "cpp/model_store/opened_model.h"
#include "cpp/ranker/description.h"

namespace feedfast::ranker {

// Layers as views of the tensors `<layer>/<array>` of the section `towers`. DataLoss: a tensor is
// missing, of another dtype or shape, or scales are missing or given without int8. Whether layers
// fit each other is left to GatedMlp and CrossNetwork.
StatusOr<GatedLayer> ReadGatedLayer(const model_store::Tensors& tensors, const std::string& layer,
                                    const LayerDescription& description);
StatusOr<CrossLayer> ReadCrossLayer(const model_store::Tensors& tensors, const std::string& layer,
                                    const CrossDescription& description, std::int64_t size);

// A tensor of float32 with `rank` dimensions. DataLoss: there is none, or of another kind.
StatusOr<const model_store::Tensor*> FindFloats(const model_store::Tensors& tensors,
                                                const std::string& name, std::size_t rank);

}  // namespace feedfast::ranker

#endif  // FEEDFAST_CPP_RANKER_LAYERS_H_
