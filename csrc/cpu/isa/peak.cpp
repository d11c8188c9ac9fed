// Independent multiply-adds in registers: the rate that nothing which multiplies matrices here can pass.
#include "../simd.h"

namespace cmsei {
namespace CMSEI_ISA {

double multiply_add_burst(long iterations, float* sink) {
    using V = Simd<float>;
    constexpr int chains = CMSEI_REGISTERS == 32 ? 24 : 12;
    V::T acc[chains];
#pragma GCC unroll 32
    for (int i = 0; i < chains; ++i) acc[i] = V::set(sink[0] + static_cast<float>(i));
    const V::T x = V::set(sink[1]), y = V::set(sink[2]);
    for (long n = 0; n < iterations; ++n)
#pragma GCC unroll 32
        for (int i = 0; i < chains; ++i) acc[i] = acc[i] * x + y;
    V::T sum = V::zero();
#pragma GCC unroll 32
    for (int i = 0; i < chains; ++i) sum += acc[i];
    sink[3] = V::sum(sum);
    return 2.0 * V::W * chains * static_cast<double>(iterations);
}

}  // namespace CMSEI_ISA
}  // namespace cmsei
