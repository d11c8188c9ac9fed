// Whether tile registers for bfloat16 (AMX) can be used: the processor has them, the system saves them, and this
// process may.
#pragma once

#if defined(__linux__) && defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace cmsei {

inline bool tile_registers() {
    unsigned a, b, c, d;
    constexpr unsigned kOsxsave = 1u << 27, kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kOsxsave)) return false;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & (kAmxBf16 | kAmxTile)) != (kAmxBf16 | kAmxTile)) return false;
    constexpr unsigned kTileState = 3u << 17;
    unsigned state, high;
    __asm__("xgetbv" : "=a"(state), "=d"(high) : "c"(0));
    if ((state & kTileState) != kTileState) return false;
    // The kernel keeps no room for 8 KiB of tiles until a process asks; the answer holds for all of its threads.
    constexpr int kArchReqXcompPerm = 0x1023, kXfeatureTileData = 18;
    return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureTileData) == 0;
}

}  // namespace cmsei
#else
namespace cmsei {

inline bool tile_registers() { return false; }

}  // namespace cmsei
#endif
