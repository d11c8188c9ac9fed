// Counts rounded up. Always inlined: a function of its own could be the copy of another instruction set's object.
#pragma once

namespace cmsei {

__attribute__((always_inline)) constexpr inline long divide_up(long x, long by) { return (x + by - 1) / by; }
__attribute__((always_inline)) constexpr inline long round_up(long x, long to) { return divide_up(x, to) * to; }

}  // namespace cmsei
