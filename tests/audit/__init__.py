"""Tests of the room that says how far to trust a run."""
