// Scores of pairs from their inner products.
#include "pair_launch.cuh"

namespace cmsei::cuda {

std::string pair_scores(const PairCall& call, int device, void* stream) {
  return call.type == 0 ? launch_pairs<float, false>(call, device, stream)
                        : launch_pairs<double, false>(call, device, stream);
}

int64_t pair_scratch(const PairCall& call, bool backward, int device, std::string& problem) {
  size_t limit = 0;
  problem = explain("pair_score", shared_limit(device, limit), "while asking for the device's shared memory");
  if (!problem.empty()) return -1;
  const pair::Plan plan = call.type == 0 ? pair::plan_of<float>(call, backward, limit)
                                         : pair::plan_of<double>(call, backward, limit);
  if (plan.block_teams == 0) problem = kTooLarge;
  return plan.block_teams == 0 ? -1 : static_cast<int64_t>(plan.scratch_bytes);
}

}  // namespace cmsei::cuda
