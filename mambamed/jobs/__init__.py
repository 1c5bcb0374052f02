"""Many cases on one or several machines: the record of what is finished, shards, locks."""
