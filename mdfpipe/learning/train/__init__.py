"""The training loop, its state, schedule, log and checkpoints."""
