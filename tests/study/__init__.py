"""Tests of a study's settings."""
