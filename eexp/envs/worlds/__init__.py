"""Environments that run in Python on this machine, one file each, beside what they are made of.

What comes in are the options of a spec, the user's files where a world needs them, tasks and actions. What goes out are
observations, as the contract has them (eexp/envs/base.py). What must hold: a world imports what a class from elsewhere
may import and its own modules here, and no other world (docs/environments/python.md), so that each of them could be a
package of its own.
"""
