// From a call in plain numbers to the kernel's typed arguments.
#pragma once

#include "pair_score.cuh"
#include "pair_score.h"

namespace cmsei::pair {

template <class T>
T* address(int64_t x) {
  return reinterpret_cast<T*>(static_cast<uintptr_t>(x));
}

template <class S>
Items<S> items(const cuda::PairItems& x) {
  return {address<const int64_t>(x.items),
          address<const int64_t>(x.offsets),
          address<const int64_t>(x.gram_offsets),
          x.row,
          x.start,
          address<const S>(x.lengths),
          address<const S>(x.means),
          address<const S>(x.grams)};
}

template <class S>
Plan plan_of(const cuda::PairCall& call, bool backward, size_t shared_limit) {
  return make_plan<S>(parse(call.config.data()), call.images.longest, call.captions.longest, call.images.count,
                      call.captions.count, call.splits, backward, shared_limit);
}

template <class S>
Arguments<S> arguments(const cuda::PairCall& call, const Plan& plan) {
  return {parse(call.config.data()),
          address<const S>(call.scalars),
          items<S>(call.images),
          items<S>(call.captions),
          address<const S>(call.products),
          call.products_stride,
          address<S>(call.scores),
          call.scores_stride,
          address<S>(call.d_products),
          address<S>(call.d_image_grams),
          address<S>(call.d_caption_grams),
          call.d_image_grams_stride,
          call.d_caption_grams_stride,
          address<double>(call.d_scalars),
          address<unsigned char>(call.scratch),
          plan};
}

}  // namespace cmsei::pair
