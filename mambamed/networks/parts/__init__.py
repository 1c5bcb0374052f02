"""Building blocks that several networks share. Every other file of `networks` is a network."""
