"""Models and adapters as GGUF files for llama.cpp, and the metadata of such files.

What comes in is a directory of weights in safetensors, with its configuration and its tokenizer. What goes out is one
GGUF file that also says how the weights were trained. What must hold: llama.cpp gives the tokens and, up to rounding,
the log-probabilities that transformers gives for the same weights, and an architecture for which that was not checked
is refused.
"""
