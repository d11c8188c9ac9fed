// Working memory of a call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace cmsei {

// Uninitialised and aligned: registers never straddle cache lines, and large buffers lie in large pages where the
// system has them (fresh 4 KiB pages cost more than packing into them).
template <class T> class Buffer {
public:
    explicit Buffer(long n = 0) { reset(n); }

    void reset(long n) {
        const std::size_t bytes = static_cast<std::size_t>(n) * sizeof(T);
        const std::size_t align = bytes >= 2 * kLargePage ? kLargePage : 64;
        memory_.reset();
        memory_.reset(new char[bytes + align]);
        const auto address = reinterpret_cast<std::uintptr_t>(memory_.get());
        data_ = reinterpret_cast<T*>((address + align - 1) / align * align);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
        if (align == kLargePage) madvise(data_, bytes / kLargePage * kLargePage, MADV_HUGEPAGE);
#endif
    }

    T* get() const { return data_; }

    T* zeroed(long n) {
        reset(n);
        std::memset(data_, 0, static_cast<std::size_t>(n) * sizeof(T));
        return data_;
    }

private:
    static constexpr std::size_t kLargePage = std::size_t(2) << 20;
    std::unique_ptr<char[]> memory_;
    T* data_ = nullptr;
};

}  // namespace cmsei
