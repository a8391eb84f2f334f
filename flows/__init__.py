"""Prefect flows and the command line: which stage follows which, and nothing else."""
