"""Records as dicts: trajectories, episodes, examples and preferences, and their JSON Lines.

What comes in are lines of JSON Lines, or dicts that a stage has made. What goes out are checked dicts, their seeds,
their lineage and their judgement as a success. What must hold: a key that this version does not know leaves a stage as
it came, a wrong record is an InputError that names the file, the line and the place in it, and the rule for success
lives here alone.
"""
