"""Rendered talking portraits whose truth is known, good ones and one of each trap. Knows no stage and no score."""

from dualforce_model.demo.clips import render
from dualforce_model.demo.expected import Expected, mismatches, read

__all__ = ["Expected", "mismatches", "read", "render"]
