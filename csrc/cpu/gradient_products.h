// From the gradients of inner products to those of the features: dV = dS W and dW = dSᵀ V, chunk by chunk or pair by
// pair, and the Gram matrices' terms at the end.
#pragma once

#include "prepared.h"

namespace cmsei {

template <class S> struct GradientProducts {
    const PairKernels<S>& k;
    const Items& items;      // whose gradient
    const Items& others;
    long depth;
    long ld_depth;           // stride of a product's rows; a power of two would put a tile's into few cache lines
    Buffer<S> other_rows;    // the other side as rows of B

    GradientProducts(const PairKernels<S>& kernels, const Items& i, const Items& o, long d)
        : k(kernels), items(i), others(o), depth(d), ld_depth(round_up(d, kernels.nr) + kernels.lanes) {}

    // A part of the depth; it begins where a panel begins.
    struct Span {
        long first, last;
    };
    Span whole() const { return {0, depth}; }

    static constexpr long kBlock = 128;
    // If at most one in this many elements of dS is not zero, the product takes only those: each costs four times as
    // much as an element of the full product.
    static constexpr long kSparse = 8;
    // Rows of a task: as many panels as it takes to prefetch all of B's next panel (Ahead of micro.h) during the
    // products with this one.
    long task_rows() const { return 8 * k.mr; }

    // The size of B's panel; and where in B a span of the depth begins, from row `row` on.
    long panel() const { return others.total() * k.nr; }
    const S* b_of(Span span, long row) const { return other_rows.get() + span.first / k.nr * panel() + row * k.nr; }

    bool pack(const Run& run) {
        other_rows.reset(others.total() * ld_depth);
        return parallel_for(divide_up(others.total(), kBlock), run.threads, run.interrupted, [&](long t, int) {
            const long first = t * kBlock, n = std::min(kBlock, others.total() - first);
            k.pack_b_rows(at(others.rows, first), n, depth, other_rows.get() + first * k.nr, panel());
        });
    }

    // Into how many parts of the depth each of `tasks` tasks is cut to keep the threads busy; each part packs the rows
    // again. The cut changes no sum.
    long parts_of(long tasks, int threads) const {
        const long most = std::min(4L, std::max(1L, depth / (8 * k.nr)));
        const auto rounds = [&](long parts) { return static_cast<double>(divide_up(tasks * parts, threads)) / parts; };
        long best = 1;
        for (long parts = 2; parts <= most; ++parts)
            if (rounds(parts) < 0.9 * rounds(best)) best = parts;
        return best;
    }

    // out[row + i] = or += Σ_j d(i, j) other[column + j]; d is (rows, columns), or its transpose with row stride ld.
    bool add(const S* d, long ld, bool transposed, long row, long rows, long column, long columns, S* out, bool first,
             const Run& run) const {
        std::vector<Buffer<S>> scratch(run.threads), listed(run.threads);
        const long most = task_rows(), tasks = divide_up(rows, most), parts = parts_of(tasks, run.threads);
        const long width = round_up(divide_up(depth, parts), k.nr), room = most * columns / kSparse + 2 * k.lanes;
        for (auto& s : scratch) s.reset(most * (columns + ld_depth));
        for (auto& s : listed) s.reset(3 * room);
        return parallel_for(tasks * parts, run.threads, run.interrupted, [&](long task, int thread) {
            const long r0 = task / parts * most, n = std::min(most, rows - r0), x0 = task % parts * width;
            const Span span{x0, std::min(x0 + width, depth)};
            S *packed = scratch[thread].get(), *c = packed + most * columns;
            const S* own = d + (transposed ? r0 : r0 * ld);
            S* memory = listed[thread].get();
            const Nonzeros<S> list{memory, memory + room, memory + 2 * room};
            const long sparse = n * columns / kSparse;
            const long count = k.nonzeros(own, ld, transposed, n, columns, sparse, list);
            if (count > sparse)
                multiply(own, ld, transposed, n, column, columns, c, packed, false, span);
            else
                k.nonzero_gemm(list, count, b_of(span, column), panel(), c + span.first, ld_depth, n,
                               span.last - span.first);
            add_rows(c, n, out + (row + r0) * depth, first, span);
        });
    }

    // c (rows, ld_depth) = or += the same product, one row of c for each i. `packed` is not needed for a transposed d.
    void multiply(const S* d, long ld, bool transposed, long rows, long column, long columns, S* c, S* packed,
                  bool accumulate, Span span) const {
        Gemm<S> g{packed, k.mr * columns, 0, b_of(span, column), panel(), k.nr, c + span.first, ld_depth, rows,
                  span.last - span.first, columns, accumulate};
        if (transposed) {
            g.a = d;
            g.a_panel = k.mr;
            g.lda = ld;
        } else {
            k.pack_a({d, kStorage<S>, ld}, rows, columns, packed);
        }
        k.gemm(g);
    }

    // out_i += (G + Gᵀ) x_i with the gradient G (m, ld) of each item's Gram matrix; own: the items as rows of B.
    bool add_grams(const std::vector<S*>& d_gram, const std::vector<Gram<S>>& grams, const S* own, S* out,
                   const Run& run) const {
        const long most = longest(items), panel = items.total() * k.nr;
        std::vector<Buffer<S>> scratch(run.threads);
        for (auto& s : scratch) s.reset(most * (2 * most + ld_depth));
        return parallel_for(items.count, run.threads, run.interrupted, [&](long i, int thread) {
            const long m = items.size(i), ld = grams[i].ld;
            S *sum = scratch[thread].get(), *a = sum + m * m, *c = a + m * m;
            for (long r = 0; r < m; ++r)
                for (long j = 0; j < m; ++j) sum[r * m + j] = d_gram[i][r * ld + j] + d_gram[i][j * ld + r];
            k.pack_a({sum, kStorage<S>, m}, m, m, a);
            k.gemm({a, k.mr * m, 0, own + items.offsets[i] * k.nr, panel, k.nr, c, ld_depth, m, depth, m});
            add_rows(c, m, out + items.offsets[i] * depth, false, whole());
        });
    }

    void add_rows(const S* c, long rows, S* out, bool first, Span span) const {
        for (long i = 0; i < rows; ++i)
            for (long x = span.first; x < span.last; ++x) {
                S& y = out[i * depth + x];
                y = first ? c[i * ld_depth + x] : y + c[i * ld_depth + x];
            }
    }
};

}  // namespace cmsei
