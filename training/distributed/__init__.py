"""Distributed training: several ranks train one model."""
