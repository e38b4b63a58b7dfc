import os

with open(os.path.join(os.path.dirname(__file__), "wiki.md")) as f:
    WIKI = f.read()
