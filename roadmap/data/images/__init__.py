"""What images there are: listed, examined and fingerprinted before training. No torch here."""
