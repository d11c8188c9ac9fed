// What the portable driver of the relation attention hands to the code compiled once per instruction set.
#pragma once

#include <cstdint>

#include "rounding.h"

namespace cmsei {

// A (B, H, R, d) tensor: strides in elements, the last dimension contiguous.
template <class T> struct RelationTensor {
    T* data;
    long image, head, row;
};

template <class T> struct RelationInputs {
    long heads, rows, dim, labels;  // labels: length of the tables, 0 without tables
    RelationTensor<const T> q, k, v;
    const int32_t* label;  // (B, R, R), 0 = no edge, all below `labels` if there is a table
    const T* confidence;   // (B, R, R) or nullptr
    const T* bias;         // (H, labels) or nullptr
    const T* value;        // (H, labels, padded) or nullptr, zero beyond dim
    long padded;           // dim rounded up to whole registers
    bool value_finite;     // no infinity or NaN in `value`
};

template <class T> struct RelationGradients {
    RelationTensor<const T> out;
    RelationTensor<T> q, k, v;
};

// Sums over the images of one task; `confidence` is one image's (R, R), overwritten.
template <class T> struct RelationSums {
    T* bias;   // (H, labels) or nullptr, added to
    T* value;  // (H, labels, padded) or nullptr, added to
    T* confidence;
};

template <class T> struct RelationKernels {
    long width;  // lanes of a register
    long (*forward_bytes)(const RelationInputs<T>&);
    long (*backward_bytes)(const RelationInputs<T>&);
    // One image, heads [first, last); next: the image that follows (to be fetched into the cache), or -1; scratch is
    // 64-byte aligned and private to the calling thread.
    void (*forward)(const RelationInputs<T>&, const RelationTensor<T>& out, long image, long first, long last,
                    long next, void* scratch);
    void (*backward)(const RelationInputs<T>&, const RelationGradients<T>&, const RelationSums<T>&, long image,
                     long first, long last, long next, void* scratch);
};

}  // namespace cmsei
