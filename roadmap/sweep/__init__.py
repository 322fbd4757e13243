"""A study: its design, its plan, and the engines that carry it out."""
