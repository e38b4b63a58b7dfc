"""A page in Chromium as an environment sees it: the browser, its pages in words, and actions on them."""
