// Runs the kernel of the pair score by mma.sync on the host (fibers.h, ampere_machine.h).
#include "ampere_machine.h"

#include "../../csrc/cuda/ampere_pair.cuh"
#include "../../csrc/cuda/tile_arguments.h"

namespace {

using namespace cmsei;
using namespace cmsei::ampere;

struct Options {
  int64_t blocks, reversed, late, bits, captions, images, sum_bits;
};

}  // namespace

// Bytes of shared memory, or -2: threads wait for what does not come.
extern "C" int64_t ampere_host(const cuda::TileCall* call, const Options* options) {
  const Arguments a = tile::arguments(*call);
  const Rows words = tile::rows(call->words, call->width), regions = tile::rows(call->regions, call->width);
  const int64_t blocks = std::min(a.image_tile_count * a.caption_tile_count, options->blocks);
  try {
    for (int64_t index = 0; index < blocks; ++index) {
      // Exact in size, so that a sanitizer sees whoever leaves it, and poisoned.
      struct alignas(16) Unit {
        unsigned char bytes[16];
      };
      std::unique_ptr<Unit[]> shared(new Unit[kSharedBytes / 16]);
      std::memset(static_cast<void*>(shared.get()), 0xff, kSharedBytes);
      device::copier = {};
      device::copier.late = options->late != 0;
      device::sum_bits = static_cast<int>(options->sum_bits);
      device::run_block(kThreads, options->reversed != 0, [&](int thread) {
        run_thread(a, words, regions, shared[0].bytes, index, blocks, thread);
      });
    }
  } catch (const std::runtime_error&) {
    return -2;
  }
  return kSharedBytes;
}

// Lanes so far that went this Way of csrc/include/fragment_forms.h.
extern "C" int64_t ampere_counted(int way) { return device::counted[way]; }
extern "C" int32_t ampere_fragment(int thread, int m, int n, int i, int column) {
  return column ? fragment_column(thread, n, i) : fragment_row(thread, m, i);
}
