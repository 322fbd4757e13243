"""A trained network in use: scored on images, asked about pictures, handed to other tools."""
