"""Messages as bytes, on the host: `encode`, `decode`, and what both are made of."""
