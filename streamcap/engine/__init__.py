"""The engine: one device thread that captions the newest frame of every stream, in batches."""
