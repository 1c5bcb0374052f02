"""`study`: recipes x datasets x folds x seeds, trained under one budget, and the tables of a paper.

=========  ==================================================================
`plan`     STUDY.yaml -> recipes with their settings, runs, and commands
`costs`    what the runs will take, and what they took
`results`  scores of all runs -> means over seeds, intervals, tests, ranks
`tables`   the tables, with the numbers of the papers
`output`   study.json, CSV, Markdown, LaTeX, curves, report.html
`running`  the command: plan, run, collect, write
=========  ==================================================================
"""
