"""Slurm: batch scripts, what a site sets for them, and the queue. It needs Slurm's own commands and no package."""
