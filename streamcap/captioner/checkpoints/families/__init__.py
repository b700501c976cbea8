"""The families of checkpoints: each module recognizes one layout of files and loads it."""
