"""Optimizer, gradient clipping, schedules, EMA."""
