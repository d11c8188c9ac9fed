"""Triton kernels, imported as ``cmsei_fast.kernels``."""
