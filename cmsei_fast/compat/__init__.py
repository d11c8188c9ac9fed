"""The field's own function names on this package's engines: one import line makes a repository's evaluation fast.

A module a family of repositories, because the same name has other arguments in each: :mod:`~cmsei_fast.compat.scan`
(SCAN and what was built on its code), :mod:`~cmsei_fast.compat.bfan`, :mod:`~cmsei_fast.compat.chan`,
:mod:`~cmsei_fast.compat.imram`, :mod:`~cmsei_fast.compat.naaf`, :mod:`~cmsei_fast.compat.laps`,
:mod:`~cmsei_fast.compat.sgraf`, :mod:`~cmsei_fast.compat.vsepp` and :mod:`~cmsei_fast.compat.vse_infinity`. They take
what the functions of that name take and return what those return.
:mod:`~cmsei_fast.compat.export` makes the inputs of the packages ``fico-itr`` and ``eccv-caption``.
"""

from __future__ import annotations

__all__ = ["bfan", "chan", "export", "imram", "laps", "naaf", "scan", "sgraf", "vse_infinity", "vsepp"]
