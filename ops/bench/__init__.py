"""Benchmarks: each prints a table beside its targets, and is run apart from the tests."""
