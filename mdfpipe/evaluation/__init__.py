"""Vectors to numbers: templates, searches, and the measures of identification and verification, in NumPy.

This wing takes embeddings from anywhere, ours or another system's, and never imports torch.
"""
