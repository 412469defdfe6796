"""Archives (.mar): packing, digests, unpacking."""
