"""Backbones: a crop to a feature map or tokens."""
