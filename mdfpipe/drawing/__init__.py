"""Drawing: pixels and plots, as bytes that stand in a page or a file."""
