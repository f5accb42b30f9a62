"""Crops to vectors: data and batches, models, losses, recipes, the one training loop, embedding.

A recipe (`recipes/`, one file each) says what is trained: model, losses, batches, schedule. The loop in `train/loop.py`
knows none of them. Nothing here knows videos or metrics: a stage hands in the rows of a manifest.
"""
