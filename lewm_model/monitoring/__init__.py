"""What the robot notices: surprise, novelty, vigilance."""
