"""What a robot is: its file, limits, kinematics, cameras."""
