"""Optimizer, parameter groups, gradient clipping, schedules and EMA."""
