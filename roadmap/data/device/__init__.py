"""Images decoded once, kept on the device and augmented there."""
