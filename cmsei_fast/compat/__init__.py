"""The field's own function names on this package's engines: one import line makes a repository's evaluation fast.

There is a module for each family of repositories, since a function of the same name takes other arguments in each:
:mod:`~cmsei_fast.compat.scan` (SCAN and repositories built on its code), :mod:`~cmsei_fast.compat.bfan`,
:mod:`~cmsei_fast.compat.chan`, :mod:`~cmsei_fast.compat.imram`, :mod:`~cmsei_fast.compat.naaf`,
:mod:`~cmsei_fast.compat.laps`, :mod:`~cmsei_fast.compat.sgraf`, :mod:`~cmsei_fast.compat.vsepp` and
:mod:`~cmsei_fast.compat.vse_infinity`. Their functions take and return what the originals do.
:mod:`~cmsei_fast.compat.export` makes the inputs of the packages ``fico-itr`` and ``eccv-caption``.
"""

from __future__ import annotations

__all__ = ["bfan", "chan", "export", "imram", "laps", "naaf", "scan", "sgraf", "vse_infinity", "vsepp"]
