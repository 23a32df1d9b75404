"""What fits where, and how fast: decided from a configuration and headers, before anything is loaded."""
