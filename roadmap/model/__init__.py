"""The networks: one residual block, one network, exchange of weights with timm, registration, counting."""
