// Tile registers (AMX): eight, each of 16 rows of 64 bytes. Numbers of registers are literals, because the compilers'
// intrinsics take nothing else. STREAM loads what the first cache need not keep. A test build spells the instructions
// out, to run anywhere.
#pragma once

#include <cstdint>

#include "amx_compiled.h"

#if defined(CMSEI_AMX_TILE)
#include <immintrin.h>

#define CMSEI_TILE_ZERO(t) _tile_zero(t)
#define CMSEI_TILE_LOAD(t, p, stride) _tile_loadd(t, p, stride)
#define CMSEI_TILE_STREAM(t, p, stride) _tile_stream_loadd(t, p, stride)
#define CMSEI_TILE_STORE(t, p, stride) _tile_stored(t, p, stride)
#define CMSEI_TILE_PAIRS(c, a, b) _tile_dpbf16ps(c, a, b)
#define CMSEI_TILE_QUADS(c, a, b) _tile_dpbssd(c, a, b)
#else
#define CMSEI_TILE_ZERO(t) spelled::zero(t)
#define CMSEI_TILE_LOAD(t, p, stride) spelled::load(t, p, stride)
#define CMSEI_TILE_STREAM(t, p, stride) spelled::load(t, p, stride)
#define CMSEI_TILE_STORE(t, p, stride) spelled::store(t, p, stride)
#define CMSEI_TILE_PAIRS(c, a, b) spelled::dot_pairs(c, a, b)
#define CMSEI_TILE_QUADS(c, a, b) spelled::dot_quads(c, a, b)
#endif
// `numbers` must be a constant that depends on a template's parameters, so that only its own instruction is compiled.
#define CMSEI_TILE_DOT(numbers, c, a, b) \
    if constexpr (numbers == TileNumbers::kPairs) \
        CMSEI_TILE_PAIRS(c, a, b); \
    else \
        CMSEI_TILE_QUADS(c, a, b)

namespace cmsei {
namespace CMSEI_ISA {

constexpr long kTileRows = 16, kTileBytes = 64, kTileSize = kTileRows * kTileBytes;

// What four bytes of a row hold: two bfloat16, summed in float32, or four int8, summed in int32.
enum class TileNumbers { kPairs, kQuads };

#if defined(CMSEI_AMX_TILE)
// The registers' shapes belong to a thread, and a thread that leaves them configured pays at every switch of context:
// they are set before a product, and released after it.
inline void configure_tiles() {
    struct alignas(64) {
        uint8_t palette = 1, start = 0, reserved[14] = {};
        uint16_t bytes[16] = {};
        uint8_t rows[16] = {};
    } shapes;
    for (int t = 0; t < 8; ++t) {
        shapes.bytes[t] = kTileBytes;
        shapes.rows[t] = kTileRows;
    }
    // The intrinsic tells the compiler of eight bytes only: without this the other stores are dead.
    __asm__ volatile("" : : "r"(&shapes) : "memory");
    _tile_loadconfig(&shapes);
}
inline void release_tiles() { _tile_release(); }
#else
inline void configure_tiles() {}
inline void release_tiles() {}

namespace spelled {

inline uint32_t (&tile(int t))[kTileRows][kTileBytes / 4] {
    static thread_local uint32_t tiles[8][kTileRows][kTileBytes / 4];
    return tiles[t];
}
inline float number(uint32_t bits) {
    float x;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
}
inline void zero(int t) { __builtin_memset(tile(t), 0, kTileSize); }
inline void load(int t, const void* p, long stride) {
    for (long r = 0; r < kTileRows; ++r)
        __builtin_memcpy(tile(t)[r], static_cast<const char*>(p) + r * stride, kTileBytes);
}
inline void store(int t, void* p, long stride) {
    for (long r = 0; r < kTileRows; ++r) __builtin_memcpy(static_cast<char*>(p) + r * stride, tile(t)[r], kTileBytes);
}
// c[m][n] += Σ_k the two halves of a[m][k] times those of b[k][n].
inline void dot_pairs(int c, int a, int b) {
    for (long m = 0; m < kTileRows; ++m)
        for (long n = 0; n < kTileBytes / 4; ++n) {
            float sum = number(tile(c)[m][n]);
            for (long k = 0; k < kTileRows; ++k) {
                const uint32_t x = tile(a)[m][k], y = tile(b)[k][n];
                sum += number(x << 16) * number(y << 16) + number(x & 0xffff0000u) * number(y & 0xffff0000u);
            }
            __builtin_memcpy(&tile(c)[m][n], &sum, sizeof sum);
        }
}

// The same of the four bytes, modulo 2³².
inline void dot_quads(int c, int a, int b) {
    for (long m = 0; m < kTileRows; ++m)
        for (long n = 0; n < kTileBytes / 4; ++n)
            for (long k = 0; k < kTileRows; ++k)
                for (int shift = 0; shift < 32; shift += 8) {
                    const int x = static_cast<int8_t>(tile(a)[m][k] >> shift);
                    const int y = static_cast<int8_t>(tile(b)[k][n] >> shift);
                    tile(c)[m][n] += static_cast<uint32_t>(x * y);
                }
}

}  // namespace spelled
#endif

}  // namespace CMSEI_ISA
}  // namespace cmsei
