"""What a thing is, in words, pictures and a page: `mdfpipe inspect`."""
