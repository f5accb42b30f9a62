"""Public weights: which layouts exist, and how they are loaded."""
