"""One page of HTML about a study: how its arms did, how they were trained, and their episodes side by side.

study.py finds the files, excerpts.py chooses the episodes that are shown, charts.py draws, and page.py fills page.html,
page.css and page.js. The page needs no network: everything is in it.
"""
