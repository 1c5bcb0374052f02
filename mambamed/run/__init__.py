"""The run folder: one training of a recipe, and everything that a prediction needs to know about it.

=============  ==========================================================================
`folder`       `Run`: recipe, plan, manifest and the folders of the folds
`checkpoint`   weights and training state as safetensors with JSON metadata, never pickle
`model`        `load_network`: a network rebuilt from recipe + plan + manifest, never from a trainer
`export`       the one-file model: a run to be handed on, checked when it is opened
`device`       where and how precisely to compute, and why; keeping freed memory
=============  ==========================================================================
"""
