"""Logits -> answers on each file's own grid.

=================  ====================================================================
`sliding_window`   a network over a volume larger than its patch: windows, Gaussian, slab after slab
`answers`          what networks say to a few windows: mirrored copies, memory that may not suffice
`restore`          from logits on the prepared grid to a label map on the native grid
`ensemble`         the networks of one or several runs, loaded once
`pipeline`         cases on their way: one is read ahead, one is written behind
`record`           run.json of a prediction folder: what is finished, of what, by what
`predict`          a folder of cases -> masks, resumable; a bad case does not stop the rest
=================  ====================================================================
"""
