"""Measures: searches to numbers, with intervals and differences."""
