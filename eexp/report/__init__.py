"""A study as one page of HTML: the results of its arms, their training, and their episodes side by side.

study.py finds the files, excerpts.py chooses the episodes that are shown, charts.py draws, and page.py fills page.html,
page.css and page.js. The page needs no network: everything is in it.
"""
