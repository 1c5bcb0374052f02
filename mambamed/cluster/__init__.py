"""Work on other processes and machines: whole commands as jobs, and cases in workers.

=============  ========================================================================
`destination`  where: `--on`, `--jobs`, `--job`
`batch`        batch systems: how jobs are submitted, listed, cancelled, put back
`site`         what the site says in jobqueue.yaml, which `--job` overrides
`scripts`      job scripts
`step`         what a job runs: one command, and the record of its starts
`commands`     many commands: submitted, followed, started again, reported by name
=============  ========================================================================

Commands (training, studies) are plain jobs: each needs its own resources for days, saves its own state and
outlives the process that submitted it. Cases (prepare, predict, evaluate) are many and short: they go to
Dask workers, which keep models in memory.
"""
