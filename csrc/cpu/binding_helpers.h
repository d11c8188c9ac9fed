// What every binding of the CPU module needs: kernels by name, and calls without the GIL that notice Ctrl-C.
#pragma once

#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "kernels.h"
#include "parallel.h"

namespace cmsei {

inline const CpuKernels* kernels_by_name(const std::string& isa) {
    const CpuKernels* k = find_kernels(isa.c_str());
    if (!k) throw std::invalid_argument("isa: expected a variant this processor and build have, got '" + isa + "'");
    return k;
}

// Called without the GIL from the thread that made the call; leaves the Python error set when it returns true.
inline bool signal_pending() {
    pybind11::gil_scoped_acquire gil;
    return PyErr_CheckSignals() != 0;
}

// Computes without the GIL; `run` returns false if Ctrl-C ended it.
template <class Run> void without_gil(Run run) {
    bool done;
    {
        pybind11::gil_scoped_release release;
        done = run();
    }
    if (!done) throw pybind11::error_already_set();
}

template <class T> T* pointer(std::uintptr_t address) { return reinterpret_cast<T*>(address); }

}  // namespace cmsei
