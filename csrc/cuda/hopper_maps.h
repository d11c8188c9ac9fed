// Where things lie for wgmma and TMA, as the PTX ISA and the driver's API document it: plain functions, which a host's
// tests enumerate.
// Operands are K-major in 128-byte swizzled shared memory.
#pragma once

#include <cstdint>

#include "tile_plan.h"

namespace cmsei::hopper {

// TMA writes, and wgmma reads, the 16-byte chunk c of row r at chunk c ^ (r % 8); tiles begin where that repeats.
constexpr int kSwizzleRows = 8, kSwizzleBytes = kSwizzleRows * tile::kRowBytes;

// Shared-memory matrix descriptor of a K-major tile at a 1024-byte boundary: start address, leading offset (not used by
// a swizzled K-major tile; 1), stride offset from 8 rows to the next 8, and layout 1, the 128-byte swizzle. A step
// along the depth is 32 bytes on the start address: the swizzle works on address bits, so the row's xor stays right.
CMSEI_FORMULA constexpr uint64_t descriptor(uint32_t shared_address) {
  return (static_cast<uint64_t>((shared_address & 0x3ffff) >> 4)) | (uint64_t(1) << 16) |
         (static_cast<uint64_t>(kSwizzleBytes >> 4) << 32) | (uint64_t(1) << 62);
}
constexpr uint64_t kDescriptorStep = tile::kStepBytes >> 4;

// What TMA is told of a matrix (rows, columns): boxes of 128 bytes of `box_rows` rows, swizzled; zeros outside.
struct TensorMap {
  uint64_t sizes[2];   // numbers of a row, rows
  uint64_t strides[1]; // bytes from a row to the next
  uint32_t box[2], steps[2];
  uint64_t address;
  int bytes;           // of a number
};

inline TensorMap tensor_map(uint64_t address, int64_t stride, int64_t rows, int64_t columns, int type, int box_rows) {
  const int bytes = tile::bytes_of(type);
  return {{static_cast<uint64_t>(columns), static_cast<uint64_t>(rows)},
          {static_cast<uint64_t>(stride)},
          {static_cast<uint32_t>(tile::kRowBytes / bytes), static_cast<uint32_t>(box_rows)},
          {1, 1},
          address,
          bytes};
}

// Whether cuTensorMapEncodeTiled takes it, as its documentation has it for swizzled boxes that are not interleaved.
inline bool encodable(const TensorMap& map) {
  bool good = map.address % 16 == 0 && map.strides[0] % 16 == 0 && map.strides[0] < uint64_t(1) << 40;
  good = good && map.strides[0] >= map.sizes[0] * map.bytes;
  for (int i = 0; i < 2; ++i)
    good = good && map.sizes[i] >= 1 && map.sizes[i] <= uint64_t(1) << 32 && map.box[i] >= 1 && map.box[i] <= 256 &&
           map.steps[i] >= 1 && map.steps[i] <= 8;
  const uint64_t across = static_cast<uint64_t>(map.box[0]) * map.bytes;
  return good && across % 16 == 0 && across <= tile::kRowBytes;
}

// Row and column of a thread's accumulator i of wgmma m64nN, thread 0..127 of the warpgroup.
CMSEI_FORMULA constexpr int fragment_row(int thread, int i) {
  return thread / 32 * 16 + thread % 32 / 4 + (i / 2 % 2) * 8;
}
CMSEI_FORMULA constexpr int fragment_column(int thread, int i) { return i / 4 * 8 + thread % 4 * 2 + i % 2; }

}  // namespace cmsei::hopper
