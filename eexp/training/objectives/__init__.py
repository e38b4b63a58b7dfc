"""What a training run learns: the likelihood of completions, an agent's own answers with a clip, or preferences.

An objective makes rows of records, and a loss of the rows of an update (base.py). The table in
eexp/training/settings.py has a row for each, from which the command line and the plan of a run choose.
"""
