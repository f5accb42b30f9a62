"""Tables to pages: what a run, a table, a shard or a weight file is, in words, figures and pictures.

This wing reads the store and draws the pixels that it is handed. It decodes nothing:
`mdfpipe.inspecting.pictures` does.
"""
