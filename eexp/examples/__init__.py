"""Training examples: from records to imitation, world models, reflections and preferences, and mixtures of them.

What comes in are trajectories and episodes, and settings (settings.py); reflection also takes a model that writes. What
goes out are examples, each a prompt with its completion, or preferences between two completions. What must hold: the
loss falls on what the model is to write and on nothing else, an example keeps the lineage of the record that it was
made from, and the same records with the same seed give the same examples.
"""
