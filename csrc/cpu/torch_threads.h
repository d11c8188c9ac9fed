// The OpenMP threads that torch computes with.
#pragma once

namespace cmsei {

// Runs body(data) on up to `threads` of them, the calling one among these, and waits for all. They spin for some
// milliseconds after each of torch's operations, on cores that threads of our own would have to share with them.
// False, and nothing was run, where torch has none, and in a forked process, in which they no longer exist.
bool run_on_torch_threads(int threads, void (*body)(void*), void* data);

}  // namespace cmsei
