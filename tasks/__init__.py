"""Prefect tasks: one module per stage, and the engine they share. Knows the library and Prefect; never the flows."""
