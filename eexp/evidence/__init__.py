"""Evidence: how much one way of training helps over another, and how sure that is.

Everything here is a pure function over episodes or arrays; `eexp compare`, `eexp panel` and `eexp report` open the
files. docs/evidence.md explains the numbers. Nothing is imported here, since `eexp eval` needs panels.py alone.

    comparison.py   rows: one a method, with its difference to the baseline
    results.py      episodes as arrays of success: runs x tasks, and the checks that they can be compared
    intervals.py    differences and rates over tasks and training runs, their intervals and p values
    exact_tests.py  exact tests and Holm's correction
    looks.py        corrections for looking at a comparison several times
    power.py        the smallest improvement that a comparison can find, before it is run
    trials.py       pass@k and pass^k
    panels.py       fixed lists of tasks and their hash
    table.py        rows as text
    plot.py         rows, and the losses of training runs, as a picture
    settings.py     settings of `eexp compare` and `eexp power`
"""
