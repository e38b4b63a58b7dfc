"""Training on examples, with transformers and PEFT."""

from logging import ERROR, getLogger

# PEFT imports bitsandbytes where it is installed, which looks for kernels for inference in a package that may be
# missing, and says so on standard error.
getLogger("bitsandbytes").setLevel(ERROR)
