"""From a prepared dataset to batches: which patches (`sampler`), how they vary (`augment`, `kernels`), read
ahead by threads (`loader`). The batch of step k depends on the seed, the fold and k alone."""
