// Relation-aware attention on the CPU: raw pointers in, threads and memory inside. Float and double.
#pragma once

#include "kernels.h"
#include "parallel.h"

namespace cmsei {

// Strides in elements; the last dimension of every (B, H, R, d) tensor is contiguous, everything else dense.
template <class T> struct RelationProblem {
    long images, heads, rows, dim, labels;  // labels: length of the tables, 0 without tables
    RelationTensor<const T> q, k, v;
    const int32_t* label;  // (B, R, R), 0 = no edge
    const T* bias;         // (labels, H) or nullptr
    const T* value;        // (labels, H, d) or nullptr
    const T* confidence;   // (B, R, R) or nullptr
};

template <class T> struct RelationResults {
    RelationTensor<T> q, k, v;
    T* bias;        // as the problem's, nullptr where that is
    T* value;
    T* confidence;
};

// Both return false if interrupted, and throw std::invalid_argument for a label outside the tables. The results do not
// depend on the number of threads.
template <class T>
bool relation_attention_forward(const CpuKernels& kernels, const RelationProblem<T>& problem,
                                const RelationTensor<T>& out, int threads, const Interrupted& interrupted);

template <class T>
bool relation_attention_backward(const CpuKernels& kernels, const RelationProblem<T>& problem,
                                 const RelationTensor<const T>& grad, const RelationResults<T>& results, int threads,
                                 const Interrupted& interrupted);

}  // namespace cmsei
