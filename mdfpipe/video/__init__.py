"""Pixels to boxes: decoders, detectors, and the geometry that names a body by a face."""
