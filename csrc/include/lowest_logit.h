// Where the maximum of relation attention's logits begins, in every compiled engine.
#pragma once

namespace cmsei::relation {

// Above -inf, which stands for no edge.
template <typename Acc>
constexpr Acc kLowestLogit = sizeof(Acc) == 4 ? static_cast<Acc>(-3.0e38) : static_cast<Acc>(-1.0e308);

}  // namespace cmsei::relation
