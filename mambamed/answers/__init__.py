"""Results of cases, one module per task: what is computed, which files and tables are written."""
