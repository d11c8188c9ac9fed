#include "similarity.h"

#include <algorithm>
#include <stdexcept>

#include "buffer.h"

namespace cmsei {
namespace {

// How many captions are scored with an image at a time, fewer if there are few images for many threads; how many words'
// vectors stay in the second-level cache.
constexpr long kCaptions = 64, kFewCaptions = 16, kFewImages = 32, kWords = 128;

// Where the block of captions that begins with `first` ends, of blocks about equally long up to `last`: where the least
// of the registers is left empty.
long block_end(const int64_t* offsets, long first, long last, long lanes, bool nodes) {
    const long all = offsets[last] - offsets[first], blocks = divide_up(all, kWords);
    const double least = 0.8 * static_cast<double>(all) / static_cast<double>(blocks);
    long best = first + 1;
    double fullest = 0;
    for (long j = first + 1; j <= last; ++j) {
        const long words = offsets[j] - offsets[first], own = words + j - first;
        if (words > kWords && j > first + 1) break;
        const double used = static_cast<double>(words + nodes * own);
        const double share = used / static_cast<double>(round_up(words, lanes) + nodes * round_up(own, lanes));
        if (static_cast<double>(words) < least) {
            best = j;
        } else if (share >= fullest) {
            best = j;
            fullest = share;
        }
    }
    return best;
}

// All captions cut into chunks and those into blocks, packed; depends on the problem alone.
template <class S> struct PackedCaptions {
    std::vector<SimilarityBlock<S>> blocks;
    std::vector<SimilarityChunk<S>> chunks;
    std::vector<long> first; // caption of each chunk
    Buffer<S> words, sentences;
    SimilaritySizes most{};

    PackedCaptions(const SimilarityKernels<S>& k, const SimilarityProblem<S>& p) {
        const long step = p.images < kFewImages ? kFewCaptions : kCaptions;
        most.regions = p.regions;
        long columns = 0;
        for (long c = 0; c < p.captions; c += step) {
            const long last = std::min(p.captions, c + step), before = static_cast<long>(blocks.size());
            for (long j = c, next; j < last; j = next) {
                next = block_end(p.offsets, j, last, k.lanes, p.layers.size() > 2);
                blocks.push_back({nullptr, p.offsets + j, next - j, j - c});
                const SimilarityBlock<S>& b = blocks.back();
                columns += round_up(b.total(), k.panel);
                most.words = std::max(most.words, b.total());
                most.block_captions = std::max(most.block_captions, b.count);
                for (long i = 0; i < b.count; ++i) most.longest = std::max(most.longest, b.size(i));
            }
            most.captions = std::max(most.captions, last - c);
            first.push_back(c);
            chunks.push_back({nullptr, last - c, nullptr, static_cast<long>(blocks.size()) - before});
        }
        words.reset(columns * p.depth);
        S* next = words.get();
        for (SimilarityBlock<S>& b : blocks) {
            b.words = next;
            next += round_up(b.total(), k.panel) * p.depth;
        }
        sentences.reset(static_cast<long>(chunks.size()) * round_up(most.captions, k.panel) * p.depth);
        next = sentences.get();
        const SimilarityBlock<S>* block = blocks.data();
        for (SimilarityChunk<S>& c : chunks) {
            c.sentences = next;
            c.block = block;
            next += round_up(most.captions, k.panel) * p.depth;
            block += c.blocks;
        }
    }

    bool pack(const SimilarityKernels<S>& k, const SimilarityProblem<S>& p, int threads,
              const Interrupted& interrupted) {
        const long n = static_cast<long>(blocks.size());
        return parallel_for(n + static_cast<long>(chunks.size()), threads, interrupted, [&](long task, int) {
            if (task < n) {
                const SimilarityBlock<S>& b = blocks[task];
                k.pack_b({p.words + b.offsets[0] * p.depth, kStorage<S>, p.depth}, b.total(), p.depth,
                         const_cast<S*>(b.words));
            } else {
                const SimilarityChunk<S>& c = chunks[task - n];
                k.pack_b({p.sentence_vectors + first[task - n] * p.depth, kStorage<S>, p.depth}, c.count, p.depth,
                         const_cast<S*>(c.sentences));
            }
        });
    }
};

// The model with its layers packed.
template <class S> struct PackedModel {
    Buffer<S> memory;
    std::vector<GraphStep<S>> steps;
    SimilarityModel<S> model{};

    PackedModel(const SimilarityKernels<S>& k, const SimilarityProblem<S>& p) {
        const long d = p.width, padded = round_up(d, k.lanes), layers = static_cast<long>(p.layers.size());
        memory.reset(2 * d * p.depth + (layers - 2) * d * d + 2 * padded);
        S* next = memory.get();
        std::vector<Layer<S>> packed;
        for (long i = 0; i < layers; ++i) {
            const long depth = i < 2 ? p.depth : d;
            k.pack_layer(p.layers[i].weight, d, depth, i < 2 && p.rounded, next);
            packed.push_back({next, p.layers[i].bias});
            next += d * depth;
        }
        for (long i = 2; i < layers; i += 2) steps.push_back({packed[i], packed[i + 1]});
        const auto padded_row = [&](const S* row) {
            std::fill(next, next + padded, S(0));
            if (row) std::copy_n(row, d, next);
            next += padded;
            return next - padded;
        };
        model = {p.depth, d, p.rounded, p.temperature, packed[0], packed[1], steps.data(),
                 static_cast<long>(steps.size()), padded_row(p.gate), p.gate_scale, p.gate_shift,
                 padded_row(p.evaluate), p.evaluate_bias};
    }
};

}  // namespace

template <class S>
bool similarity(const CpuKernels& kernels, const SimilarityProblem<S>& p, S* scores, int threads,
                const Interrupted& interrupted) {
    if (p.layers.size() < 2 || p.layers.size() % 2) throw std::invalid_argument("layers: expected two and two a step");
    if (!(p.temperature >= -12 && p.temperature <= 12))
        throw std::invalid_argument("temperature: expected one from -12 to 12, which exponentials need no maximum for");
    const SimilarityKernels<S>& k = kernels.of<S>().similarity;
    threads = std::max(1, threads);
    const PackedModel<S> packed(k, p);
    PackedCaptions<S> captions(k, p);
    if (!captions.pack(k, p, threads, interrupted)) return false;
    std::vector<Buffer<S>> scratch(threads);
    for (auto& s : scratch) s.reset(k.scratch(packed.model, captions.most));
    std::vector<long> held(threads, -1);
    const long chunks = static_cast<long>(captions.chunks.size());
    return parallel_for(p.images * chunks, threads, interrupted, [&](long task, int thread) {
        const long i = task / chunks, c = task % chunks;
        S* memory = scratch[thread].get();
        if (held[thread] != i) {
            k.image(packed.model, captions.most, p.rows + i * p.regions * p.depth, memory);
            held[thread] = i;
        }
        k.chunk(packed.model, captions.most, p.image_vectors + i * p.depth, captions.chunks[c],
                scores + i * p.captions + captions.first[c], memory);
    });
}

template bool similarity(const CpuKernels&, const SimilarityProblem<float>&, float*, int, const Interrupted&);
template bool similarity(const CpuKernels&, const SimilarityProblem<double>&, double*, int, const Interrupted&);

}  // namespace cmsei
