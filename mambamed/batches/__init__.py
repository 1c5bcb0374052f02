"""From a prepared dataset to batches: choice of patches (`sampler`), augmentation (`augment`, `kernels`),
reading ahead by threads (`loader`). The batch of step k depends on the seed, the fold and k alone."""
