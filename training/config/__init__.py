"""Settings of a training run: schema, registries, sources, presets."""
