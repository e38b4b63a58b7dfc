"""Make examples that predict the next state, and find the parts of it that can be predicted."""
