"""A fuzzer: mutated lines through every stage, held to what each stage promises about any input.

`make fuzz` runs it, `make test` runs a smaller one. Everything follows from the seed, so a run can be repeated; what a
run found is minimised and saved, and `python -m fuzz --replay FILE` runs it again. The parts: values that have caused
trouble somewhere (hostile.py), what is done to a line (mutations.py), the stages and what they read (variants.py), what
must hold (laws.py), batches in processes of their own (runner.py), and smaller failing inputs (minimise.py).
"""
