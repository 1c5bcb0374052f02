"""Predictions and references -> tables that can be trusted.

`masks`, `points` and `classification` evaluate one kind of answer each; `pairing` finds what belongs
together, `scoring` scores one case, `summary` takes the means, `tables` and `output` show them, `compare`
tells whether two models differ.
"""
