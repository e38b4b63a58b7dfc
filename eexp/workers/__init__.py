"""Environments in worker processes, and many episodes at once.

What comes in are jobs, each with the spec of an environment and the records or actions to work on. What goes out are
their answers, as soon as they are there, and an error for each job that failed in every retry. What must hold: a worker
that crashes, hangs or grows costs a retry and nothing else, no worker outlives this process, and the number of workers
changes no record.
"""
