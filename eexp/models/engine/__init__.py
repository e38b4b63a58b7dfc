"""The engine: texts drawn and scored in batches, with any decoder, every shared beginning evaluated once.

What comes in are groups of requests with the tokens of their prompts, a decoder, which is a model's memory, and a
vocabulary, which turns tokens into texts. What goes out are samples with their log-probabilities, and the cost of all
evaluations. What must hold: a group's answers follow from its requests, their seeds and the model alone, never from
time, from other groups or, but for rounding, from the room in memory.

    decoder.py       the contract of decoders: cells, sequences, states and marks
    distribution.py  one next token: its distribution, draws from it, random numbers
    nodes.py         the texts of one request as a tree of nodes
    sampling.py      which of these texts are drawn: independently, or without replacement
    tree.py          the tokens of a group in a decoder: trunk, branches and chains, and who is evicted
    drawer.py        the schedule that draws texts in such a tree
    scorer.py        the schedule that scores texts in such a tree
    states.py        both schedules for decoders that do not cut
    groups.py        a group of requests, answered by these
    in_flight.py     episodes, whose next requests are not known beforehand
    local.py         models in this process: what all backends with a decoder share
"""
