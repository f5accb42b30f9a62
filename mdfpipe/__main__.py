"""`python -m mdfpipe` is `mdfpipe`."""

from mdfpipe.cli import main

main()
