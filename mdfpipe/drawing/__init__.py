"""Drawing: pixels and plots, as bytes for a page or a file."""
