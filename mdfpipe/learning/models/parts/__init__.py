"""Parts of networks: heads, poolings, adapters."""
