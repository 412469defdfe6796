"""Implements `ganctl sample`: requests, samplers (local or a server), rejection of misread images, and output files.

A seed means the same as for the service: with the same model, seed and request both give the same images.
"""
