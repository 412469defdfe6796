"""The format `browser`: a static folder whose page draws images in the browser, without a server that computes.

`page/` holds the files of the page as they are served. `package.json` and `package-lock.json` pin its runtime.
"""
