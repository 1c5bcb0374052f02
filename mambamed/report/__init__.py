"""Numbers -> what people look at: tables, pictures, the report page. Nothing is measured here.

============  ===============================================================
`canvas`      figures without a display, the same on every machine
`tables`      a table as headers and rows; as CSV, Markdown and LaTeX
`pictures`    three planes of a case, reference and prediction outlined
`progress`    the curves of a training
============  ===============================================================
"""
