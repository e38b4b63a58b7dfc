"""What the pages that eexp writes have in common: their style, their script, and how they are put together.

In: data and a template. Out: one page of HTML. What must hold: nothing is loaded from elsewhere, and no script runs but
the page's own.
"""
