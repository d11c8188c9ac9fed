// The choice of the CPU kernels for any processor: the real choice, of variants that are names alone.
#include <cstddef>
#include <string>

#define CMSEI_HAVE_X86_VARIANTS
#include "../../csrc/cpu/dispatch.cpp"

namespace cmsei {

#define VARIANT(name)                \
  namespace name {                   \
  CpuKernels kernels() {             \
    CpuKernels own{};                \
    own.isa = #name;                 \
    return own;                      \
  }                                  \
  }
#define PAIRS(name)                                                             \
  namespace name {                                                             \
  static const NarrowKernels own{};                                            \
  void add_bf16_kernels(TypedKernels<float>& table) { table.pair.bf16 = &own; } \
  }
#define PRODUCT(name)                                       \
  namespace name {                                          \
  static const NarrowKernels own{};                         \
  void add_int8_kernels(PairKernels<float>& table) { table.int8 = &own; } \
  }
VARIANT(baseline)
VARIANT(avx2)
VARIANT(avx512)
PAIRS(avx512bf16)
PAIRS(avx512amx)
PRODUCT(avxvnni)
PRODUCT(avx512vnni)
PRODUCT(amxint8)

}  // namespace cmsei

// `has`: avx2, avx512, avx512bf16, avxvnni, avx512vnni, tiles of bfloat16, tiles of int8, a bit each from the lowest.
// Writes the variants in their order, each with the products of bfloat16 and of int8 that it is given.
extern "C" void chosen(unsigned has, char* out, std::size_t size) {
  using namespace cmsei;
  const auto bit = [&](int i) { return (has >> i & 1) != 0; };
  const Available found(Processor{bit(0), bit(1), bit(2), bit(3), bit(4), {bit(5), bit(6)}});
  std::string text;
  for (const CpuKernels* const* k = found.list; *k; ++k) {
    text += (text.empty() ? "" : " ") + std::string((*k)->isa);
    const NarrowKernels* const bf16 = (*k)->f32.pair.bf16;
    text += bf16 == &avx512bf16::own ? "+pairs" : bf16 == &avx512amx::own ? "+tiles" : bf16 ? "+?" : "";
    const NarrowKernels* const int8 = (*k)->f32.pair.int8;
    text += int8 == &avxvnni::own ? "+avxvnni" : int8 == &avx512vnni::own ? "+avx512vnni" : int8 ? "+amxint8" : "";
  }
  out[text.copy(out, size - 1)] = 0;
}
