"""Tests of processes, threads and signals."""
