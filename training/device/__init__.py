"""Device features: number formats, streams, per-step scalars, timing."""
