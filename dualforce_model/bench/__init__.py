"""Benchmarks that print what the docs claim: `python -m dualforce_model.bench NAME [--json]`, one file each."""
