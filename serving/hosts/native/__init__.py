"""The native host: workers that accept from one port, and a process that supervises them."""
