"""Write models and adapters as GGUF files, and read what such files say of themselves."""
