"""The service: an HTTP API and a page over one index."""
