"""Experiments and measurements: each is a module run from the repository root, ``python -m benchmarks.NAME --help``.

Each prints a table and writes JSON (and figures) with the machine, the versions, its whole configuration, seeds and date;
``pip install '.[benchmarks]'`` brings what they need beside the package.
"""
