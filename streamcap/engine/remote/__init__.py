"""Models behind an HTTP server that speaks OpenAI's chat completions: Ollama, vLLM, llama.cpp, hosted ones."""
