// How images and captions are cut into tiles. Depends on the problem only, never on the number of threads, so that
// every sum is taken in the same order on every machine.
#pragma once

#include <algorithm>
#include <vector>

#include "pair_score.h"

namespace cmsei {

// Columns of a tile; its rows are the instruction set's.
constexpr long kTileWords = 256;

// Neighbouring items whose rows together fill a tile's side; an item is never cut.
struct Group {
    long first, last;         // items
    long row, rows;           // their rows
    long padded;              // rows before it where every group is rounded up to `multiple`
};

// Of the ends that fill a group to at least three quarters, the one whose last register of `lanes` rows leaves the
// smallest share of the group's work empty.
inline std::vector<Group> cut(const Items& items, long most, long multiple, long lanes = 1) {
    std::vector<Group> groups;
    long padded = 0;
    for (long i = 0; i < items.count;) {
        const auto rows = [&](long end) { return items.offsets[end] - items.offsets[i]; };
        const auto empty = [&](long end) { return (lanes - rows(end) % lanes) % lanes; };
        long j = i + 1;
        while (j < items.count && rows(j + 1) <= most) ++j;
        if (j < items.count)
            for (long end = j - 1; end > i && rows(end) >= most / 4 * 3; --end)
                if (empty(end) * rows(j) < empty(j) * rows(end)) j = end;
        groups.push_back({i, j, items.offsets[i], rows(j), padded});
        padded += round_up(rows(j), multiple);
        i = j;
    }
    return groups;
}

inline long padded_rows(const std::vector<Group>& groups, long multiple) {
    return groups.empty() ? 0 : groups.back().padded + round_up(groups.back().rows, multiple);
}

inline long longest(const Items& items) {
    long most = 0;
    for (long i = 0; i < items.count; ++i) most = std::max(most, items.size(i));
    return most;
}

}  // namespace cmsei
