"""Code that the handler of an archive and the training side share: NumPy and the standard library alone.

The handler has this folder as its own (`serving/handler/common` is a link), and an archive packs it with the handler.
"""
