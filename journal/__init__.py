"""Durable intents and metadata: records, logs, store, replay."""
