"""Packing, verification and copying of archives (.mar files)."""
