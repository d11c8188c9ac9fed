// Cuts the relation attention into tasks, packs the tables and adds up the tasks' sums in a fixed order.
#include "relation_attention.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "buffer.h"

namespace cmsei {
namespace {

// The tables by head, so that a head's rows follow each other; whole registers a row.
template <class T> struct Tables {
    Buffer<T> bias, value;
    long padded;
    bool finite = true;
};

template <class T> Tables<T> pack_tables(const RelationProblem<T>& p, long width) {
    Tables<T> t;
    t.padded = round_up(p.dim, width);
    if (p.bias) {
        t.bias.reset(p.heads * p.labels);
        for (long l = 0; l < p.labels; ++l)
            for (long h = 0; h < p.heads; ++h) t.bias.get()[h * p.labels + l] = p.bias[l * p.heads + h];
    }
    if (p.value) {
        t.value.reset(p.heads * p.labels * t.padded);
        T check = 0;
        for (long l = 0; l < p.labels; ++l)
            for (long h = 0; h < p.heads; ++h) {
                const T* from = p.value + (l * p.heads + h) * p.dim;
                T* to = t.value.get() + (h * p.labels + l) * t.padded;
                std::copy_n(from, p.dim, to);
                std::fill(to + p.dim, to + t.padded, T(0));
                for (long c = 0; c < p.dim; ++c) check += from[c] * 0;
            }
        t.finite = check == 0;
    }
    return t;
}

template <class T> RelationInputs<T> inputs(const RelationProblem<T>& p, const Tables<T>& t) {
    return {p.heads, p.rows, p.dim, p.labels, p.q, p.k, p.v, p.label, p.confidence,
            p.bias ? t.bias.get() : nullptr, p.value ? t.value.get() : nullptr, t.padded, t.finite};
}

// Labels index the tables, so one that does not belong there must not reach the kernels.
template <class T> void check_labels(const RelationProblem<T>& p) {
    int32_t low = 0, high = 0;
    for (long e = 0; e < p.images * p.rows * p.rows; ++e) {
        low = std::min(low, p.label[e]);
        high = std::max(high, p.label[e]);
    }
    if (low < 0 || (p.labels > 0 && high >= p.labels))
        throw std::invalid_argument("labels: expected integers from 0 to n_labels - 1, got " +
                                std::to_string(low < 0 ? low : high));
}

// Scratch memory for each thread.
std::vector<Buffer<char>> scratch_of(long bytes, int threads) {
    std::vector<Buffer<char>> all(threads);
    for (auto& own : all) own.reset(bytes);
    return all;
}

// How a backward pass is cut: depends on the sizes alone, because the order of the sums does.
struct Cut {
    long group, groups;  // images of a task
    long part, parts;    // heads of a task
};

template <class T> Cut cut_backward(const RelationProblem<T>& p, long padded) {
    constexpr long most_groups = 64, tasks = 32, most_bytes = 8 << 20;
    const long table = p.heads * p.labels * ((p.value ? padded : 0) + 1) * static_cast<long>(sizeof(T));
    const long groups = std::min({p.images, most_groups, std::max(1L, most_bytes / std::max(1L, table))});
    Cut c;
    c.group = divide_up(p.images, groups);
    c.groups = divide_up(p.images, c.group);
    // Parting the heads repeats the layout of the labels: no more than enough for the threads.
    c.part = divide_up(p.heads, std::min(p.heads, divide_up(tasks, c.groups)));
    c.parts = divide_up(p.heads, c.part);
    return c;
}

}  // namespace

template <class T>
bool relation_attention_forward(const CpuKernels& kernels, const RelationProblem<T>& problem,
                                const RelationTensor<T>& out, int threads, const Interrupted& interrupted) {
    check_labels(problem);
    const RelationKernels<T>& kernel = kernels.of<T>().relation;
    const Tables<T> tables = pack_tables(problem, kernel.width);
    const RelationInputs<T> in = inputs(problem, tables);
    threads = std::max(1, threads);
    // An image's heads share its labels' layout; they are parted only where images are too few for the threads.
    const long part = problem.images >= 4 * threads ? problem.heads : 1, parts = divide_up(problem.heads, part);
    const long group = std::clamp(problem.images / (16 * threads), 1L, 8L), groups = divide_up(problem.images, group);
    const auto scratch = scratch_of(kernel.forward_bytes(in), threads);
    return parallel_for(groups * parts, threads, interrupted, [&](long task, int thread) {
        const long first = task % parts * part, last = std::min(problem.heads, first + part);
        const long end = std::min(problem.images, (task / parts + 1) * group);
        for (long b = task / parts * group; b < end; ++b)
            kernel.forward(in, out, b, first, last, b + 1 < end ? b + 1 : -1, scratch[thread].get());
    });
}

template <class T>
bool relation_attention_backward(const CpuKernels& kernels, const RelationProblem<T>& problem,
                                 const RelationTensor<const T>& grad, const RelationResults<T>& results, int threads,
                                 const Interrupted& interrupted) {
    check_labels(problem);
    const RelationKernels<T>& kernel = kernels.of<T>().relation;
    const Tables<T> tables = pack_tables(problem, kernel.width);
    const RelationInputs<T> in = inputs(problem, tables);
    const RelationGradients<T> gradients{grad, results.q, results.k, results.v};
    threads = std::max(1, threads);
    const long padded = tables.padded, heads = problem.heads, labels = problem.labels;
    const long pairs = problem.rows * problem.rows;
    const Cut cut = cut_backward(problem, padded);

    const long bias_size = problem.bias ? heads * labels : 0, value_size = problem.value ? heads * labels * padded : 0;
    const Buffer<T> bias(cut.groups * bias_size), value(cut.groups * value_size);
    const bool parted = problem.confidence && cut.parts > 1;
    const Buffer<T> confidence(parted ? cut.parts * problem.images * pairs : 0);
    T* d_confidence = parted ? confidence.get() : results.confidence;

    const auto scratch = scratch_of(kernel.backward_bytes(in), threads);
    const bool done = parallel_for(cut.groups * cut.parts, threads, interrupted, [&](long task, int thread) {
        const long group = task / cut.parts, part = task % cut.parts;
        const long first = part * cut.part, last = std::min(heads, first + cut.part);
        RelationSums<T> sums{problem.bias ? bias.get() + group * bias_size : nullptr,
                             problem.value ? value.get() + group * value_size : nullptr, nullptr};
        if (sums.bias) std::fill(sums.bias + first * labels, sums.bias + last * labels, T(0));
        if (sums.value) std::fill(sums.value + first * labels * padded, sums.value + last * labels * padded, T(0));
        const long end = std::min(problem.images, (group + 1) * cut.group);
        for (long b = group * cut.group; b < end; ++b) {
            if (problem.confidence) sums.confidence = d_confidence + (part * problem.images + b) * pairs;
            kernel.backward(in, gradients, sums, b, first, last, b + 1 < end ? b + 1 : -1, scratch[thread].get());
        }
    });
    if (!done) return false;

    return parallel_for(heads, threads, interrupted, [&](long h, int) {
        for (long l = 0; l < labels; ++l) {
            if (problem.bias) {
                T sum = 0;
                for (long g = 0; g < cut.groups; ++g) sum += bias.get()[g * bias_size + h * labels + l];
                results.bias[l * heads + h] = sum;
            }
            if (!problem.value) continue;
            T* to = results.value + (l * heads + h) * problem.dim;
            std::fill_n(to, problem.dim, T(0));
            for (long g = 0; g < cut.groups; ++g) {
                const T* from = value.get() + g * value_size + (h * labels + l) * padded;
                for (long c = 0; c < problem.dim; ++c) to[c] += from[c];
            }
        }
        if (!parted || h > 0) return;
        const long elements = problem.images * pairs;
        std::copy_n(confidence.get(), elements, results.confidence);
        for (long part = 1; part < cut.parts; ++part)
            for (long e = 0; e < elements; ++e) results.confidence[e] += confidence.get()[part * elements + e];
    });
}

#define CMSEI_INSTANTIATE(T)                                                                                          \
    template bool relation_attention_forward<T>(const CpuKernels&, const RelationProblem<T>&,                         \
                                                const RelationTensor<T>&, int, const Interrupted&);                   \
    template bool relation_attention_backward<T>(const CpuKernels&, const RelationProblem<T>&,                        \
                                                 const RelationTensor<const T>&, const RelationResults<T>&, int,      \
                                                 const Interrupted&);
CMSEI_INSTANTIATE(float)
CMSEI_INSTANTIATE(double)
#undef CMSEI_INSTANTIATE

}  // namespace cmsei
