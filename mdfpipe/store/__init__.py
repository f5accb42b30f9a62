"""What is on disk: every table's schema, the run folder with its receipts, and crops in tar shards."""
