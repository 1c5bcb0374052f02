"""From a prepared volume to logits on the grid of the input file. No file is written here.

=================  ====================================================================
`ensemble`         the networks of one or several runs, loaded once
`sliding_window`   a network over a volume larger than its patch: windows, Gaussian, slab after slab
`forward`          forward passes: average of mirrored copies, smaller batches when memory runs out
`restore`          logits on the prepared grid -> label map on the native grid
=================  ====================================================================
"""
