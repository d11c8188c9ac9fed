// The pair score's per-instruction-set functions: packing, the register-tile product, and the epilogue of one pair.
#pragma once

#include <cstdint>

#include "../include/pair_math.h"
#include "rounding.h"

namespace cmsei {

enum class Storage { kFloat32, kFloat64, kBFloat16, kFloat16 };
template <class S> constexpr Storage kStorage = sizeof(S) == 4 ? Storage::kFloat32 : Storage::kFloat64;

// Row-major matrix in its storage type; stride in elements.
struct Rows {
    const void* data;
    Storage storage;
    long stride;
    const float* scales = nullptr; // of rows that a NarrowKernels::round has made
};

constexpr int kMaxSteps = 8;

// What is needed of a Gram matrix: the lengths of its rows; also the matrix; also its packed forms.
enum class GramForms { kLengths, kRows, kContext };

// The scorer: in direction 0 words attend to regions (t2i), in direction 1 regions to words (i2t).
template <class S> struct PairSpec {
    bool active[2];
    int norm[2], aggregate[2], steps[2], attend[2], relevance[2];
    bool object_sentence, word_image, alignment;
    S weight[5], mu, temperature[2], lse[2], threshold[2], gate[2][kMaxSteps][2];

    bool cross_level() const {
        return object_sentence || word_image || alignment || (active[0] && aggregate[0] == kGuided) ||
               (active[1] && aggregate[1] == kGuided);
    }
    // Position of direction's first gate in the vector of scalars.
    int first_gate(int direction) const { return kFirstGate + (direction == 1 && active[0] ? 2 * (steps[0] - 1) : 0); }
    // Position of its threshold: after the gates of both directions.
    int threshold_at(int direction) const {
        return first_gate(1) + (active[1] ? 2 * (steps[1] - 1) : 0) + (direction == 1 && aware(0));
    }
    int scalars() const { return threshold_at(1) + aware(1); }
    bool aware(int direction) const { return attend[direction] == kNegativeAware; }
    // What is read of the Gram matrices of the regions (side 0, direction 0's context) or the words (side 1).
    GramForms gram_forms(int side) const {
        if (active[side] && needs_gram(attend[side], relevance[side], true, steps[side] > 1))
            return GramForms::kContext;
        if (side == 0 ? object_sentence : word_image) return GramForms::kContext;
        return cross_level() || aware(1 - side) ? GramForms::kRows : GramForms::kLengths;
    }
};

// C (rows × cols) = or += A (rows × k) · B (k × cols). A comes in panels of `mr` rows, element (i, k) of a panel at
// a[k * lda + i]; lda = 0 says that a panel is packed as densely as it has rows. B comes in panels of `nr` columns,
// element (k, j) at b[k * ldb + j]; up to the next multiple of the lanes is read and C written there.
template <class S> struct Gemm {
    const S* a;
    long a_panel, lda;
    const S* b;
    long b_panel, ldb;
    S* c;
    long ldc, rows, cols, k;
    bool accumulate = false;
};

// Elements (i, k) of a matrix that is nearly all zero; the places' bits are those of integers.
template <class S> struct Nonzeros {
    S *value, *i, *k;
};

// Inner products of the rows of one image or caption, in the forms the epilogue reads.
template <class S> struct Gram {
    S* rows;   // (m, ld) row-major, columns m..ld-1 zero; null unless asked for, as are the next two
    S* panels; // packed as A of Gemm
    // Packed like them, doubled below the diagonal and not read above it: the quadratic form at half the work.
    S* half;
    S* length; // (ld,) lengths of the rows
    S* mean;   // length of their mean; null where `rows` is
    long m, ld;
};

template <class S> struct Pair {
    const S* block; // (R, L) inner products, row stride ld_block; a register's lanes can be read past the last
    long ld_block, regions, words;
    Gram<S> v, w;
};

// The sizes that determine a strip's working memory: its images and captions, the rows of all of them, and those of the
// longest of each.
struct StripSize {
    long images, captions, regions, words;
    long most_regions, longest;
};

// Neighbouring images and captions, whose rows and columns of the block follow one another.
template <class S> struct Strip {
    // (ΣR, words) as of Pair; two registers' lanes and rows as many as a register's can be read past the last.
    const S* block;
    long ld_block;
    const Gram<S> *v, *w;
    StripSize size;
};

template <class S> struct PairGradient {
    S d_score;
    S* d_block; // (R, L), written with what is left of each row's last register
    long ld_block;
    S* d_v;            // (R, v.ld) gradient of the regions' Gram matrix, added to
    S* d_w;            // (L, w.ld)
    double* d_scalars; // added to
};

// Gradients of a strip's pairs; pairs whose score has no gradient are left out.
template <class S> struct StripGradient {
    const S* d_scores; // (images, captions)
    long stride;
    S* d_block; // (ΣR, words), written; a register's lanes past the last are read and written back
    long ld_block;
    S* const* d_v;     // of each image and caption as PairGradient has them, the captions' one behind the other
    S* d_w;
    double* d_scalars; // added to
};

// Products of numbers narrower than float32, with sums in float32, where the processor has such instructions:
// neighbours along the depth share 32-bit elements. A packed row has elements(depth) of these, including what else it
// stores, such as its scale.
struct NarrowKernels {
    int mr, rows; // of a panel of A; what A and C have their rows rounded up to
    long (*elements)(long depth);
    // Like the functions of these names in PairKernels.
    void (*pack_a)(Rows src, long rows, long depth, uint32_t* dst);
    void (*pack_b)(Rows src, long cols, long depth, uint32_t* dst);
    void (*gemm)(const uint32_t* a, const uint32_t* b, float* c, long ldc, long rows, long cols, long depth);
    void (*gram)(Rows src, long depth, const Gram<float>& out, float* scratch);
    long (*gram_scratch)(long m, long depth);
    // Where all of these take rows of another form: the float32 a row takes in it, and the rows in it.
    long (*rounded_size)(long depth) = nullptr;
    Rows (*round)(Rows src, long rows, long depth, float* memory) = nullptr;
};

template <class S> struct PairKernels {
    int mr, nr, lanes; // of a panel of A, of B, and of a register: what a product rounds its columns up to
    long tile_regions; // rows of A whose packed panels and product with a tile's columns suit the second-level cache
    // `rows` rows as A panels: dst holds rows × depth.
    void (*pack_a)(Rows src, long rows, long depth, S* dst);
    // `cols` rows of src as columns of B: dst holds round_up(cols, nr) × depth, zero where there is no column.
    void (*pack_b)(Rows src, long cols, long depth, S* dst);
    // Rows of src as rows of B, panels along depth: panel j at dst + j * panel.
    void (*pack_b_rows)(Rows src, long rows, long depth, S* dst, long panel);
    void (*gemm)(const Gemm<S>&);
    // The elements of d (rows, depth) or its transpose that are not zero, as long as they are at most `most`, with room
    // for two registers more; C = the matrix of these elements · B (nonzero.h).
    long (*nonzeros)(const S* d, long ld, bool transposed, long rows, long depth, long most, const Nonzeros<S>& out);
    void (*nonzero_gemm)(const Nonzeros<S>& d, long count, const S* b, long b_panel, S* c, long ldc, long rows,
                         long cols);
    // Number of S a Gram of m rows takes, its view on memory, and its computation.
    long (*gram_size)(long m, GramForms forms);
    Gram<S> (*gram_view)(S* memory, long m, GramForms forms);
    void (*gram)(Rows src, long depth, const Gram<S>& out, S* scratch);
    long (*gram_scratch)(long m, long depth);
    long (*pair_scratch)(const PairSpec<S>&, long regions, long words, bool backward);
    S (*pair_forward)(const PairSpec<S>&, const Pair<S>&, S* scratch);
    // The scores of a strip, for the scorers that strip_suits().
    bool (*strip_suits)(const PairSpec<S>&);
    long (*strip_scratch)(const PairSpec<S>&, const StripSize&);
    void (*strip_forward)(const PairSpec<S>&, const Strip<S>&, S* scores, long stride, S* scratch);
    void (*pair_backward)(const PairSpec<S>&, const Pair<S>&, const PairGradient<S>&, S* scratch);
    // The gradients of a strip, likewise.
    bool (*strip_gradient_suits)(const PairSpec<S>&);
    long (*strip_gradient_scratch)(const PairSpec<S>&, const StripSize&);
    void (*strip_backward)(const PairSpec<S>&, const Strip<S>&, const StripGradient<S>&, S* scratch);
    // Of rows in bfloat16; of rows of any kind, each rounded to whole numbers of 8 bits times a power of two. Null
    // where there are none.
    const NarrowKernels *bf16, *int8;
};

}  // namespace cmsei
