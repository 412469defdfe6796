"""Code that training, exports and the archive's handler share; it imports only NumPy and the standard library.

`serving/handler/common` is a link to this folder, and an archive packs the folder with the handler.
"""
