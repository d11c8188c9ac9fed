// Many captions and many images at once, from the inner products of all of them: each direction's queries side by side
// (strip_attention.h), then each item's scores from its queries' relevances (strip_side.h). Included once per
// instruction set.
#pragma once

#include "cross_level.h"
#include "strip_attention.h"
#include "strip_side.h"

namespace cmsei {
namespace CMSEI_ISA {

template <class S> struct StripScores {
    using V = Simd<S>;
    using Attention = StripAttention<S>;
    using Side = StripSide<S>;
    static constexpr int W = V::W;

    const PairSpec<S>& spec;
    const Strip<S>& strip;
    const StripSize& size;
    Arena<S> memory;

    static bool suits(const PairSpec<S>& s) {
        for (int d = 0; d < 2; ++d)
            if (s.active[d] && !Attention::suits(s, d)) return false;
        return true;
    }

    // Direction d: its queries and contexts, all of them and of one item.
    struct Shape {
        long queries, items, longest, contexts, most_context;
        Shape(const StripSize& s, int d)
            : queries(d ? s.regions : s.words), items(d ? s.images : s.captions),
              longest(d ? s.most_regions : s.longest), contexts(d ? s.captions : s.images),
              most_context(d ? s.longest : s.most_regions) {}
    };

    static long scratch(const PairSpec<S>& s, const StripSize& most) {
        long work = 0;
        for (int d = 0; d < 2; ++d) {
            if (!Side::needed(s, d)) continue;
            const Shape x(most, d);
            long own = Side::size(s, d, x.queries, x.contexts, x.longest);
            if (s.active[d]) own += Attention::size(s, d, x.most_context, x.longest);
            if (d) own += round_up(x.most_context, W) * turned_row(x.longest);
            work = own > work ? own : work;
        }
        return work + by_caption(most) + 2 * by_image(most);
    }

    StripScores(const PairSpec<S>& s, const Strip<S>& x, const Arena<S>& arena)
        : spec(s), strip(x), size(x.size), memory(arena) {}

    void forward(S* scores, long stride) {
        const long ld = round_up(size.captions, kNR<S>);
        S *from_captions = nullptr, *from_images = nullptr;
        if (Side::needed(spec, 0)) {
            S* captions = memory.take(by_caption(size));
            from_captions = memory.take(by_image(size));
            side<0>(captions, round_up(size.images, kNR<S>));
            transpose(captions, round_up(size.images, kNR<S>), size.captions, size.images, from_captions, ld);
        }
        if (Side::needed(spec, 1)) {
            from_images = memory.take(by_image(size));
            side<1>(from_images, ld);
        }
        for (long i = 0; i < size.images; ++i)
            for (long j = 0; j < size.captions; ++j)
                scores[i * stride + j] =
                    (from_captions ? from_captions[i * ld + j] : S(0)) + (from_images ? from_images[i * ld + j] : S(0));
    }

private:
    // Sizes of a matrix of scores with a row for each image, for each caption.
    static long by_image(const StripSize& x) { return round_up(x.images, W) * round_up(x.captions, kNR<S>); }
    static long by_caption(const StripSize& x) { return round_up(x.captions, W) * round_up(x.images, kNR<S>); }
    static long turned_row(long longest) { return Attention::columns(longest) + W; }

    // The scores of the items of one side, rows of `ld`.
    template <int d> void side(S* out, long ld) const {
        Arena<S> arena = memory;
        const Shape shape(size, d);
        const Gram<S>*items = d ? strip.v : strip.w, *contexts = d ? strip.w : strip.v;
        const Side side(spec, d, shape.queries, shape.contexts, shape.longest, arena);
        const long ld_turned = turned_row(shape.longest);
        S* turned = d ? arena.take(round_up(shape.most_context, W) * ld_turned) : nullptr;
        side.meet(contexts);
        if (side.active) {
            Attention attention(spec, d, shape.most_context, shape.longest, arena);
            gather<d>(side, items, contexts, turned, ld_turned, attention);
        } else {
            gather<d>(side, items, contexts, turned, ld_turned, NoAttention());
        }
        for (long j = 0, first = 0; j < shape.items; first += items[j++].m) side.score(items[j], first, out + j * ld);
    }

    struct NoAttention {
        void ask(const Gram<S>*, long) {}
        void answer(const Gram<S>&, const S*, long, S*, long) {}
    };

    // The queries' relevances and their inner products with the contexts' means.
    template <int d, class Asks>
    void gather(const Side& side, const Gram<S>* items, const Gram<S>* contexts, S* turned, long ld_turned,
                Asks asks) const {
        const Shape shape(size, d);
        for (long j = 0, at = 0; j < shape.items;) {
            const long count = Attention::together(items + j, shape.items - j);
            long n = 0;
            for (long i = 0; i < count; ++i) n += items[j + i].m;
            asks.ask(items + j, count);
            for (long c = 0, row = 0; c < shape.contexts; row += contexts[c++].m) {
                const long m = contexts[c].m;
                const S* block = strip.block + (d ? at * strip.ld_block + row : row * strip.ld_block + at);
                if (d) transpose(block, strip.ld_block, n, m, turned, ld_turned);
                const S* own = d ? turned : block;
                const long stride = d ? ld_turned : strip.ld_block;
                if (side.mean) column_means(own, m, stride, n, side.mean + c * side.ld + at);
                asks.answer(contexts[c], own, stride, side.relevance + c * side.ld + at, side.step());
            }
            at += n;
            j += count;
        }
    }
};

}  // namespace CMSEI_ISA
}  // namespace cmsei
