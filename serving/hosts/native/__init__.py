"""The native host: uvicorn workers on one port, and a process that supervises them."""
