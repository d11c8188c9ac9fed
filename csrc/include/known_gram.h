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

// The Gram matrix of a wide context as the right operand, tile by tile: what a team keeps from pair to pair while the
// context is the same. The tiles not below the diagonal are in registers; where a step refines, those below are in
// memory, two of a lane side by side. Forms with few queries have room for the rests of the former too, what tf32
// leaves of them (fragment_gram.h).
struct KnownGram {
    static constexpr int kTiles = kMostInFragments / 8;
    enum Extent : int { kNone, kUpper, kWhole, kParted = 4 }; // the latter beside one of the others: with the rests
    int extent; // what is known of the regions' matrix; whoever comes to other regions sets it to kNone
    float upper[kTiles][kTiles][2], rests[kTiles][kTiles][2];
    float* lower;
    int places[2]; // of the columns that a lane finishes: see Fragments::finished_column()

    static CMSEI_FORMULA constexpr int number(int k, int j) { return k * (k - 1) / 2 + j; }
    static CMSEI_FORMULA constexpr int lower_numbers() { return number(kTiles, 0) * 64; }
    // Of the tile of this number and of the next one or the one before: a lane's numbers.
    CMSEI_TEAM float* below(int number, int lane) const { return lower + (number / 2 * 32 + lane) * 4; }
    // At the end of a form that does without the rests: until then it has their registers.
    CMSEI_TEAM void forget_rests() {
        extent &= ~kParted;
#pragma unroll
        for (int k = 0; k < kTiles; ++k)
#pragma unroll
            for (int j = k; j < kTiles; ++j) rests[k][j][0] = rests[k][j][1] = 0;
    }
    // A lane's part of half of w G wᵀ, w (8 kTiles) and 0 behind the context. G is symmetric.
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
