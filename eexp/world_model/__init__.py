"""Make examples that predict the next state, and weigh what of it can be predicted."""
