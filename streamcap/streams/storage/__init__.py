"""Where a stream's captions are kept: files, or another store; events wait while it refuses."""
