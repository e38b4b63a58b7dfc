"""Stages in which an environment acts: from tasks and trajectories to alternatives, outcomes, episodes and corrections.

What comes in are tasks or records, an environment or the workers that hold it, a policy, and the settings of the stage
(settings.py). What goes out are records, each with its line of lineage; a record that cannot be processed goes to the
callback that says so and is not written. What must hold: a branch shows what its action leads to, so every recorded
observation has come back before an alternative is executed, and the same seed gives the same records in any order, in
any number of processes and after a resume.
"""
