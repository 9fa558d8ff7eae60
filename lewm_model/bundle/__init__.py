"""The folder that the trainer writes and the robot loads."""
