"""Vision encoders, mappings, GPT-2 and its KV cache."""
