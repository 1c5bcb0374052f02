"""`best`: which runs, weights and postprocessing raise the score of out-of-fold predictions beyond chance.

============  ===================================================================
`held_out`    probabilities and references of the validation cases of all runs
`options`     what is tried: ensembles, weights, postprocessing
`climb`       takes options as long as a paired test shows that they are better
`best`        the command: predict, choose, write ensemble.json
============  ===================================================================
"""
