"""Crops to batches: what is read, drawn and augmented."""
