"""What is due, and how it is done: the plan, the runner, the processes that work, the state of a run."""
