"""How fast every step trains and answers, beside timm's own loop, measured in turn in one process."""
