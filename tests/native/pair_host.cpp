// Runs the pair score's kernels on the host: by fibers as on a GPU (fibers.h), or by a team of one in plain loops.
#include "fibers.h"

#include "../../csrc/cuda/pair_arguments.h"

namespace {

using namespace cmsei;
using namespace cmsei::pair;

struct Options {
  int64_t fibers;        // 0: a team of one
  int64_t reversed;      // order in which the threads run
  int64_t shared_limit;  // bytes of a block
};

template <class S, bool kBackward>
int64_t run(const cuda::PairCall& call, const Options& options) {
  Plan plan = plan_of<S>(call, kBackward, options.shared_limit);
  if (plan.block_teams == 0) return -1;
  const Arguments<S> a = arguments<S>(call, plan);
  // Exact in size, so that a sanitizer sees whoever leaves it, and poisoned.
  const auto memory = [](size_t bytes) {
    std::unique_ptr<double[]> out(new double[(bytes + 7) / 8]);
    std::memset(static_cast<void*>(out.get()), 0xff, (bytes + 7) / 8 * 8);
    return out;
  };
  if (!options.fibers) {
    const auto own = memory(plan.team_bytes);
    for (int64_t t = 0; t < plan.teams; ++t)
      run_team<S, Alone, kBackward>(a, Alone{}, t, reinterpret_cast<unsigned char*>(own.get()));
    return 1;
  }
  for (int64_t block = 0; block < plan.grid; ++block) {
    const auto shared = memory(plan.shared_bytes);
    auto* const bytes = reinterpret_cast<unsigned char*>(shared.get());
    device::run_block(plan.team_threads * plan.block_teams, options.reversed != 0, [&](int thread) {
      if (plan.team_threads == kWarp)
        run_thread<S, true, kBackward>(a, bytes, block, thread);
      else
        run_thread<S, false, kBackward>(a, bytes, block, thread);
    });
  }
  return plan.team_threads == kWarp ? 2 : plan.scratch ? 4 : 3;
}

}  // namespace

// 1: a team of one, 2: warps, 3: blocks, 4: blocks with their memory outside, -1: too large, -2: a barrier is not met.
extern "C" int64_t pair_host(const cmsei::cuda::PairCall* call, int backward, const Options* options) {
  try {
    if (call->type == 0) return backward ? run<float, true>(*call, *options) : run<float, false>(*call, *options);
    return backward ? run<double, true>(*call, *options) : run<double, false>(*call, *options);
  } catch (const std::runtime_error&) {
    return -2;
  }
}

extern "C" int64_t pair_host_scratch(const cmsei::cuda::PairCall* call, int backward, const Options* options) {
  const Plan plan = call->type == 0 ? plan_of<float>(*call, backward != 0, options->shared_limit)
                                    : plan_of<double>(*call, backward != 0, options->shared_limit);
  return plan.block_teams == 0 ? -1 : static_cast<int64_t>(plan.scratch_bytes);
}

// Adds one to counts (images, captions) for each pair that a team of the launch owns. 0: nobody launched.
extern "C" int64_t pair_cover(const cmsei::cuda::PairCall* call, int backward, int64_t shared_limit, int32_t* counts) {
  const Plan plan = plan_of<float>(*call, backward != 0, shared_limit);
  if (plan.block_teams == 0 || static_cast<int64_t>(plan.shared_bytes) > shared_limit) return 0;
  for (int64_t block = 0; block < plan.grid; ++block)
    for (int own = 0; own < plan.block_teams; ++own)
      for (int64_t t = block * plan.block_teams + own; t < plan.teams; t += plan.grid * plan.block_teams) {
        const Place place = locate(plan, t);
        for (int64_t c = place.first; c < place.last; ++c) ++counts[place.image * call->captions.count + c];
      }
  return plan.block_teams;
}
