"""Triton kernels, imported as ``cmsei_fast.kernels``: one file a job, the mathematics apart from the launches.

Importing this package imports no Triton; its modules do. README.md beside this file counts bytes and operations.
"""
