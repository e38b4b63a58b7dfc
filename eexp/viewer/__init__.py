"""Files of records in a browser: trajectories with their alternatives fanned out, examples, episodes, preferences.

In: files of records, as they are or while they grow. Out: one page, from a server on this machine alone or as a file.
What must hold: a text of a record is shown as text and never as markup, and a file is never held in memory.
"""
