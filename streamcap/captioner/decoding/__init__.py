"""From prompts to tokens: batches, beam search, sampling."""
