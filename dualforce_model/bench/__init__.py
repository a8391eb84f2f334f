"""Benchmarks that print what the documentation claims: `python -m dualforce_model.bench NAME [--json]`, one file each."""
