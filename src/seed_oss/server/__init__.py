"""HTTP: OpenAI's API and what goes with it, over an engine's client. No torch."""
