"""Files of other programs: one file per family of datasets, with the few keys that mambamed reads."""
