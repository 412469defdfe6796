"""Parts of a worker process that do not depend on the host: model, versions, metrics and access log."""
