"""Networks: one for each recipe."""
