// Which products of tile registers (AMX) can be used: the processor has them, the system saves the registers, and this
// process may.
#pragma once

namespace cmsei {

struct TileProducts {
    bool bf16, int8;
};

}  // namespace cmsei

#if defined(__linux__) && defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace cmsei {

inline TileProducts tile_products() {
    unsigned a, b, c, d;
    constexpr unsigned kOsxsave = 1u << 27, kAmxBf16 = 1u << 22, kAmxTile = 1u << 24, kAmxInt8 = 1u << 25;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kOsxsave)) return {};
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & kAmxTile) || !(d & (kAmxBf16 | kAmxInt8))) return {};
    constexpr unsigned kTileState = 3u << 17;
    unsigned state, high;
    __asm__("xgetbv" : "=a"(state), "=d"(high) : "c"(0));
    if ((state & kTileState) != kTileState) return {};
    // The system's kernel keeps no room for 8 KiB of tiles until a process asks for it; the answer holds for all of its
    // threads.
    constexpr int kArchReqXcompPerm = 0x1023, kXfeatureTileData = 18;
    if (syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureTileData) != 0) return {};
    return {(d & kAmxBf16) != 0, (d & kAmxInt8) != 0};
}

}  // namespace cmsei
#else
namespace cmsei {

inline TileProducts tile_products() { return {}; }

}  // namespace cmsei
#endif
