"""Many cases on one or several machines.

===========  ==========================================================================
`job`        one command from models and inputs to a finished output folder
`engine`     cases through reading, network and writing, each in a thread of its own
`answer`     what the engine asks of a task
`read_case`  files of a case -> array on the prepared grid
`stream`     the bounded queue between network and writer
`output`     the output folder: names, locks, what may be written
`record`     run.json: the finished cases
`shard`      which part of the cases a process works on
===========  ==========================================================================
"""
