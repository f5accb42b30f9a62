"""Crops to vectors: data and batches, models, losses, recipes, the one training loop, embedding.

A recipe (`recipes/`, one file each) says what is trained: model, losses, batches, schedule. The loop in `training.py`
knows none of them. Nothing here knows videos or numbers of merit: what a stage hands in is a manifest's rows.
"""
