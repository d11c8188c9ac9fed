// What a warp that multiplies matrices keeps of a context from pair to pair: see team_fragments.h.
#pragma once

#include <string.h>

#include "fragment_forms.h"

namespace cmsei {

template <int kCount> struct alignas(4 * kCount) Numbers {
    float x[kCount];
};
template <int kCount> CMSEI_FORMULA Numbers<kCount> read(const float* from) {
    Numbers<kCount> numbers;
    memcpy(&numbers, __builtin_assume_aligned(from, sizeof numbers), sizeof numbers);
    return numbers;
}
template <int kCount> CMSEI_FORMULA void write(float* to, const Numbers<kCount>& numbers) {
    void* const place = to; // nvcc makes wrong code of the builtin where it converts the pointer itself
    memcpy(__builtin_assume_aligned(place, sizeof numbers), &numbers, sizeof numbers);
}

// The Gram matrix of a wide context as the right operand, tile by tile; a team keeps it from pair to pair while the
// context is the same. Tiles on and above the diagonal are in registers. Tiles below it are needed only if a step
// refines; they are in memory, a lane's numbers of two tiles side by side. Forms with few queries have room for the
// rests of the upper tiles too, what tf32 leaves of them (fragment_gram.h).
struct KnownGram {
    static constexpr int kTiles = kMostInFragments / 8;
    enum Extent : int { kNone, kUpper, kWhole, kParted = 4 }; // kParted is added to one of the others: rests too
    int extent; // what is known of the regions' matrix; whoever comes to other regions sets it to kNone
    float upper[kTiles][kTiles][2], rests[kTiles][kTiles][2];
    float* lower;
    int places[2]; // of the columns that a lane finishes: see Fragments::finished_column()

    static CMSEI_FORMULA constexpr int number(int k, int j) { return k * (k - 1) / 2 + j; }
    static CMSEI_FORMULA constexpr int lower_numbers() { return number(kTiles, 0) * 64; }
    // The lane's numbers of the tile of this number, side by side with those of the next tile or of the one before.
    CMSEI_TEAM float* below(int number, int lane) const { return lower + (number / 2 * 32 + lane) * 4; }
    // Called at the end of a form without the rests, which uses their registers for other things.
    CMSEI_TEAM void forget_rests() {
        extent &= ~kParted;
#pragma unroll
        for (int k = 0; k < kTiles; ++k)
#pragma unroll
            for (int j = k; j < kTiles; ++j) rests[k][j][0] = rests[k][j][1] = 0;
    }
    // The lane's part of half of w G wᵀ; w (8 kTiles) is 0 past the context. G is symmetric: half of it is the tiles
    // above the diagonal and half of those on it.
    CMSEI_TEAM float square_of(const float* w, int lane) const {
        float sum[kTiles], total = 0;
#pragma unroll
        for (int k = 0; k < kTiles; ++k) {
            const Numbers<2> two = read<2>(w + (8 * k + (lane & 3) * 2));
            const float on = two.x[0] * upper[k][k][0] + two.x[1] * upper[k][k][1];
            sum[k] = k == 0 ? 0.5f * on : sum[k] + 0.5f * on;
            total += w[8 * k + (lane >> 2)] * sum[k];
#pragma unroll
            for (int j = k + 1; j < kTiles; ++j) {
                sum[j] = k == 0 ? two.x[0] * upper[k][j][0] : sum[j] + two.x[0] * upper[k][j][0];
                sum[j] += two.x[1] * upper[k][j][1];
            }
        }
        return total;
    }
};

}  // namespace cmsei
