// Which forms of the score a pair takes where a warp has it in registers (team_fragments.h, team_beside.h): plain
// functions of the scorer and of the pair's sizes, which the kernels ask and the host's tests enumerate.
#pragma once

#include "team.h"

namespace cmsei {

// Items of a context that fit the registers.
constexpr int kMostInFragments = 40;
// Queries at a time, in eights of rows, of a narrow context and of a wide one.
constexpr int kNarrowContext = 16, kNarrowRows = 5, kWideRows = 2;
// Words of a caption for which there is a form between these, three eights of them, of the usual alone.
constexpr int kSomeWords = 24;

CMSEI_FORMULA constexpr bool fits_fragments(int attend) { return attend == kSoft || is_focal(attend); }
CMSEI_FORMULA constexpr bool in_fragments(int attend, int64_t context) {
    return fits_fragments(attend) && context <= kMostInFragments;
}
CMSEI_FORMULA constexpr int64_t queries_in_fragments(int64_t context) {
    return 8 * (context <= kNarrowContext ? kNarrowRows : kWideRows);
}

// Which of a scorer's forms its temperatures leave: the softmax of a usual direction takes no maximum, nor does that
// across the levels where means ask beside. There 12 is the most, for beyond it the quadratic form, not yet divided,
// would leave no room for the squares of long vectors.
template <class S> CMSEI_FORMULA int forms_of(const PairConfig& config, const S* scalars) {
    const auto within = [](S x, S most) { return x <= most && x >= -most; };
    const int left = (within(scalars[kT2ITemperature], kMostBounded) ? kUsualWords : 0) |
                     (within(scalars[kI2TTemperature], kMostBounded) ? kUsualRegions : 0);
    const bool all = left == (kUsualWords | kUsualRegions) && within(scalars[kGuideTemperature], 12);
    return config.forms & (left | (all ? kMeansBeside : 0));
}
// Of a scorer with kMeansBeside: whether a pair's means ask beside, where both sides have a row that is of no region,
// of no word. A caption's rows are two eights or three.
CMSEI_FORMULA constexpr bool has_rows_for_means(int regions, int words) {
    return regions > 32 && regions < kMostInFragments && words < kSomeWords && words != 8 * kWideRows;
}

// Ways that a pair may go, of which the machine counts how many did where it is a host's model (tests/native).
enum Way : int { kBesideTwoEights, kBesideThreeEights, kWays };

}  // namespace cmsei
