"""From a prepared volume to logits on the grid of the input file. No file is written here."""
