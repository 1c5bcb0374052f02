"""Logits -> answers on each file's own grid.

=================  ====================================================================
`sliding_window`   a network over a volume larger than its patch: windows, Gaussian, mirroring
`restore`          from logits on the prepared grid to a label map on the native grid
`ensemble`         the networks of one or several runs, loaded once
`predict`          a folder of cases -> masks, resumable; a bad case does not stop the rest
=================  ====================================================================
"""
