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

inline std::vector<Group> cut(const Items& items, long most, long multiple) {
    std::vector<Group> groups;
    long padded = 0;
    for (long i = 0; i < items.count;) {
        long j = i + 1;
        while (j < items.count && items.offsets[j + 1] - items.offsets[i] <= most) ++j;
        const long rows = items.offsets[j] - items.offsets[i];
        groups.push_back({i, j, items.offsets[i], rows, padded});
        padded += (rows + multiple - 1) / multiple * multiple;
        i = j;
    }
    return groups;
}

inline long padded_rows(const std::vector<Group>& groups, long multiple) {
    return groups.empty() ? 0 : groups.back().padded + (groups.back().rows + multiple - 1) / multiple * multiple;
}

inline long longest(const Items& items) {
    long most = 0;
    for (long i = 0; i < items.count; ++i) most = std::max(most, items.size(i));
    return most;
}

}  // namespace cmsei
