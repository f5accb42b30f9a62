"""mdfpipe: cross-spectral person recognition from video, by body and by face, domain by domain."""

__version__ = "0.1.0"
