// Which compiled form scores a pair whose numbers a warp keeps in registers (team_fragments.h, team_beside.h): plain
// functions of the scorer and of the pair's sizes, which the kernels call and the host's tests enumerate.
#pragma once

#include "team.h"

namespace cmsei {

// The most items of a context that fit the registers.
constexpr int kMostInFragments = 40;
// A context of at most kNarrowContext items is narrow, a larger one wide. With a narrow one 8 kNarrowRows queries are
// taken at a time, with a wide one 8 kWideRows.
constexpr int kNarrowContext = 16, kNarrowRows = 5, kWideRows = 2;
// Captions of 17 to kSomeWords words have forms of their own between these two, compiled for usual directions alone
// (Fragments::usual()).
constexpr int kSomeWords = 24;

CMSEI_FORMULA constexpr bool fits_fragments(int attend) { return attend == kSoft || is_focal(attend); }
CMSEI_FORMULA constexpr bool in_fragments(int attend, int64_t context) {
    return fits_fragments(attend) && context <= kMostInFragments;
}
CMSEI_FORMULA constexpr int64_t queries_in_fragments(int64_t context) {
    return 8 * (context <= kNarrowContext ? kNarrowRows : kWideRows);
}

// The special forms of a scorer that its temperatures allow. The softmax of a usual direction subtracts no maximum, and
// neither does that of the cross-level terms in kMeansBeside, so that their temperatures must be bounded. The latter's
// may be at most 12: beyond that, P G Pᵀ with weights not yet divided by their sum would leave too little of float32's
// range for the squares of long vectors.
template <class S> CMSEI_FORMULA int forms_of(const PairConfig& config, const S* scalars) {
    const auto within = [](S x, S most) { return x <= most && x >= -most; };
    const int left = (within(scalars[kT2ITemperature], kMostBounded) ? kUsualWords : 0) |
                     (within(scalars[kI2TTemperature], kMostBounded) ? kUsualRegions : 0);
    const bool all = left == (kUsualWords | kUsualRegions) && within(scalars[kGuideTemperature], 12);
    return config.forms & (left | (all ? kMeansBeside : 0));
}
// For a scorer with kMeansBeside: whether both sides of a pair leave a row free for the other query, their mean.
// Regions take 33 to 39 of 40 rows; words take fewer than 16 or, from 17 on, fewer than 24.
CMSEI_FORMULA constexpr bool has_rows_for_means(int regions, int words) {
    return regions > 32 && regions < kMostInFragments && words < kSomeWords && words != 8 * kWideRows;
}

// The ways in which kMeansBeside scores a pair. A host's model of the GPU (tests/native) counts the pairs of each.
enum Way : int { kBesideTwoEights, kBesideThreeEights, kWays };

}  // namespace cmsei
