"""Training on examples, with transformers and PEFT.

What comes in are examples or preferences, a base model and the settings of a run (settings.py). What goes out is a
directory with weights or an adapter, metrics.jsonl, the description eexp.json and the model card. What must hold: the
loss is that of the rows one at a time, however they are packed, shared as trees or divided over processes, and a run
that is resumed equals one that was not interrupted.
"""
