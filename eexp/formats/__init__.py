"""Read and write formats of other projects: conversations, episodes and evaluation logs."""
