"""What is asked: a study's settings, its systems, its sweeps."""
