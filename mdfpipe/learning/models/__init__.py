"""Networks, and the reading of their checkpoints. A recipe imports what it needs: there is no registry."""
