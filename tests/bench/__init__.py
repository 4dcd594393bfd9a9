"""Benchmarks: one module each, one table each, run by `make bench` or alone by `python -m tests.bench.NAME`.

A module here is a benchmark when it has `main() -> int | None`: it takes no argument (settings come from the
environment, as its docstring says), prints its table, and returns 0 or None when every bar it knows is met. Ratios are
taken within one interleaved run of at least five rounds, as medians, and the machine is named beside them.
"""
