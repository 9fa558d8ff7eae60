"""From a recording to a bundle."""
