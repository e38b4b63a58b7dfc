"""Write models and adapters as GGUF files, and read the metadata of such files."""
