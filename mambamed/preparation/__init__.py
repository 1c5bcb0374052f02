"""Cases -> prepared dataset: verified, oriented, cropped, resampled, normalized, planned, split, stored."""
