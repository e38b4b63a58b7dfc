"""Backends: models of llama.cpp and of transformers in this process, and models behind HTTP.

What comes in are a spec, or files and how to run them (`Engine`). What goes out is a `Model`; those in this process
(engine/local.py) bring a tokenizer, a chat template and a decoder, and leave the rest to the engine. What must hold:
the tokens and log-probabilities of llama.cpp are those of transformers, the reference, but for rounding, and what may
end the process is tried in another process first.

    llama_cpp.py      models in GGUF files
    llama_decoder.py  llama.cpp itself: loaded files, and decoders on them
    llama_trial.py    a trial of a file, which may end llama.cpp
    hf.py             models of transformers, with PEFT adapters
    cells.py          decoders for attention
    rows.py           decoders for layers with a state
    kernels.py        a trial of torch's kernels for a number format
    http.py           models behind OpenAI-compatible servers
    chat_answers.py   what such servers answer
    client.py         many requests to a server at once, with retries
    fleet.py          one model at several servers
    fleet_file.py     which servers those are
    served_model.py   whether servers serve the same model
"""
