"""Tests of what does the work that is due."""
