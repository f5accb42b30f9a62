"""How far to trust a run: its files, its labels against the truth, what trivial features reach."""
