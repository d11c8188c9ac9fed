// Working memory of a call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace cmsei {

// Uninitialised memory, aligned so that registers never straddle cache lines. Large buffers are pages of their own:
// large pages where the system has them, and all of it goes back when the buffer does, so that a long run's memory
// does not creep up with the sizes of its tiles.
template <class T> class Buffer {
public:
    explicit Buffer(long n = 0) { reset(n); }
    Buffer(Buffer&& other) noexcept { *this = static_cast<Buffer&&>(other); }
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(memory_, other.memory_);
        std::swap(bytes_, other.bytes_);
        std::swap(mapped_, other.mapped_);
        return *this;
    }
    ~Buffer() { release(); }

    void reset(long n) {
        release();
        const std::size_t bytes = static_cast<std::size_t>(n) * sizeof(T);
        mapped_ = bytes >= 2 * kLargePage;
        bytes_ = mapped_ ? (bytes / kLargePage + 2) * kLargePage : bytes + kLine;
        memory_ = mapped_ ? map(bytes_) : std::malloc(bytes_);
        if (!memory_) throw std::bad_alloc();
        const std::size_t align = mapped_ ? kLargePage : kLine;
        const auto address = reinterpret_cast<std::uintptr_t>(memory_);
        data_ = reinterpret_cast<T*>((address + align - 1) / align * align);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
        if (mapped_) madvise(data_, (bytes / kLargePage + 1) * kLargePage, MADV_HUGEPAGE);
#endif
    }

    T* get() const { return data_; }

    T* zeroed(long n) {
        reset(n);
        if (!mapped_) std::memset(data_, 0, static_cast<std::size_t>(n) * sizeof(T));
        return data_;
    }

private:
    static constexpr std::size_t kLargePage = std::size_t(2) << 20, kLine = 64;

#if defined(__linux__)
    static void* map(std::size_t bytes) {
        void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return p == MAP_FAILED ? nullptr : p;
    }
    static void unmap(void* p, std::size_t bytes) { munmap(p, bytes); }
#else
    static void* map(std::size_t bytes) { return std::calloc(bytes, 1); }
    static void unmap(void* p, std::size_t) { std::free(p); }
#endif

    void release() {
        if (!memory_) return;
        if (mapped_)
            unmap(memory_, bytes_);
        else
            std::free(memory_);
        memory_ = nullptr;
    }

    T* data_ = nullptr;
    void* memory_ = nullptr;
    std::size_t bytes_ = 0;
    bool mapped_ = false;
};

}  // namespace cmsei
