"""Read and write the formats of other projects: conversations, episodes and evaluation logs."""
