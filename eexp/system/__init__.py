"""The operating system, for the other rooms: child processes, signals, locks, HTTP, the terminal and the cache.

What comes in are commands to run, functions to try, requests to send and texts to show. What goes out are answers, or
one error that says what failed. What must hold: no child outlives this process, however that ends, every answer has a
deadline and a largest size, and nothing here knows of records, environments or models.
"""
