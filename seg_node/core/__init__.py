"""The adaptive pipeline: pure torch and numpy, no ROS, no files, no command line."""
