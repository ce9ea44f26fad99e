"""What do people look at, and how do their corrections come back? A ranked queue, packages for CVAT, and the `human` layer."""
