"""Synchronous and asynchronous Python clients with retries."""
