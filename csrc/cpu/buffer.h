// Working memory of a call.
#pragma once

#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

#include "pages.h"

namespace cmsei {

// Uninitialised memory, aligned so that registers never straddle cache lines. Large buffers are pages of their own.
template <class T> class Buffer {
public:
    explicit Buffer(long n = 0) { reset(n); }
    Buffer(Buffer&& other) noexcept { *this = static_cast<Buffer&&>(other); }
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(memory_, other.memory_);
        std::swap(bytes_, other.bytes_);
        std::swap(paged_, other.paged_);
        std::swap(cleared_, other.cleared_);
        return *this;
    }
    ~Buffer() { release(); }

    void reset(long n) {
        release();
        const std::size_t bytes = static_cast<std::size_t>(n) * sizeof(T);
        paged_ = bytes >= 2 * Pages::kLarge;
        bytes_ = paged_ ? (bytes / Pages::kLarge + 2) * Pages::kLarge : bytes + kLine;
        cleared_ = false;
        memory_ = paged_ ? Pages::take(bytes_, cleared_) : std::malloc(bytes_);
        if (!memory_) throw std::bad_alloc();
        const std::size_t align = paged_ ? Pages::kLarge : kLine;
        const auto address = reinterpret_cast<std::uintptr_t>(memory_);
        data_ = reinterpret_cast<T*>((address + align - 1) / align * align);
    }

    T* get() const { return data_; }

    T* zeroed(long n) {
        reset(n);
        if (!cleared_) std::memset(data_, 0, static_cast<std::size_t>(n) * sizeof(T));
        return data_;
    }

private:
    static constexpr std::size_t kLine = 64;

    void release() {
        if (!memory_) return;
        if (paged_)
            Pages::give(memory_, bytes_);
        else
            std::free(memory_);
        memory_ = nullptr;
    }

    T* data_ = nullptr;
    void* memory_ = nullptr;
    std::size_t bytes_ = 0;
    bool paged_ = false, cleared_ = false;
};

}  // namespace cmsei
