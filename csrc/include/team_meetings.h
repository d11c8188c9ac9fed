// How lanes of a warp reduce numbers that lie as in the sums of mma m16n8k8: lane l has row l / 4 of each eight rows
// and, of each tile of 8 columns, two. The eight lanes that share columns, and the four that share rows, exchange in
// trees that halve what each has, until every lane finishes a share of its columns or rows, that is, has their results.
#pragma once

#include "team.h"

namespace cmsei {

// The kAll columns of a lane.
template <int kAll> struct MeetingColumns {
    // How many a lane has after each exchange.
    static constexpr int kMany = (kAll + 1) / 2, kSome = (kMany + 1) / 2, kFinished = (kSome + 1) / 2;

    // Afterwards x[i] is the join, over all rows, of the column that the lane finishes as its number i.
    template <class Team, class Join>
    static CMSEI_TEAM void meet(const Team& team, int lane, float* x, const Join& join) {
        halve<kAll, 16>(team, lane, x, join);
        halve<kMany, 8>(team, lane, x, join);
        halve<kSome, 4>(team, lane, x, join);
    }
    // Which of the lane's columns that is.
    static CMSEI_TEAM int finished(int lane, int i) {
        return before<kAll, 16>(lane, before<kMany, 8>(lane, before<kSome, 4>(lane, i)));
    }
    // Whether no lane before this one finishes it too.
    static CMSEI_TEAM bool first_to_finish(int lane, int i) {
        const int j = before<kSome, 4>(lane, i), k = before<kMany, 8>(lane, j);
        return !shares<kSome, 4>(lane, i) && !shares<kMany, 8>(lane, j) && !shares<kAll, 16>(lane, k);
    }

private:
    template <int kCount, int kMask, class Team, class Join>
    static CMSEI_TEAM void halve(const Team& team, int lane, float* x, const Join& join) {
        constexpr int kHalf = (kCount + 1) / 2;
        const bool high = (lane & kMask) != 0;
#pragma unroll
        for (int i = 0; i < kCount / 2; ++i) {
            const float given = high ? x[i] : x[i + kHalf], kept = high ? x[i + kHalf] : x[i];
            x[i] = join(kept, team.exchanged(given, kMask));
        }
        if (kCount % 2) x[kHalf - 1] = join(x[kHalf - 1], team.exchanged(x[kHalf - 1], kMask));
    }
    // The place before an exchange of what is in x[i] after it.
    template <int kCount, int kMask> static CMSEI_TEAM int before(int lane, int i) {
        constexpr int kHalf = (kCount + 1) / 2;
        if (kCount % 2 == 0) return i + (lane & kMask) / kMask * kHalf;
        return (lane & kMask) != 0 && i < kCount / 2 ? i + kHalf : i;
    }
    // Whether x[i] is the odd one, which both lanes of an exchange have, and this lane is the second of them.
    template <int kCount, int kMask> static CMSEI_TEAM bool shares(int lane, int i) {
        return kCount % 2 && i == kCount / 2 && (lane & kMask) != 0;
    }
};

// The kRows rows of a lane, in slots of four: of a slot each of the four lanes that share its rows finishes one.
template <int kRows> struct MeetingRows {
    static constexpr int kSlots = (kRows + 3) / 4;

    static CMSEI_FORMULA constexpr int rows_of(int slot) { return kRows - 4 * slot < 4 ? kRows - 4 * slot : 4; }
    // Which of the slot's rows the lane finishes.
    static CMSEI_TEAM int finished(int lane, int slot) {
        const int own = lane & 3;
        return 4 * slot + (rows_of(slot) == 3 ? (own < 3 ? own : 2) : own & (rows_of(slot) - 1));
    }
    template <class Team> static CMSEI_TEAM float sum(const Team& team, float x) {
        x += team.exchanged(x, 1);
        return x + team.exchanged(x, 2);
    }
    // out[slot] = the sum of x[row] over the four lanes, for the row that the lane finishes.
    template <class Team>
    static CMSEI_TEAM void settle(const Team& team, int lane, const float (&x)[kRows], float (&out)[kSlots]) {
        const bool own = (lane & 1) != 0, high = (lane & 2) != 0;
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot) {
            const float* const y = x + 4 * slot;
            const auto pair = [&](int e) { return (own ? y[e + 1] : y[e]) + team.exchanged(own ? y[e] : y[e + 1], 1); };
            if (rows_of(slot) == 1) {
                out[slot] = sum(team, y[0]);
            } else if (rows_of(slot) == 2) {
                const float z = pair(0);
                out[slot] = z + team.exchanged(z, 2);
            } else {
                const float z = pair(0), w = rows_of(slot) == 3 ? y[2] + team.exchanged(y[2], 1) : pair(2);
                out[slot] = (high ? w : z) + team.exchanged(high ? z : w, 2);
            }
        }
    }
};

}  // namespace cmsei
