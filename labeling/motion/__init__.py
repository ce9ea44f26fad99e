"""Where was the vehicle really? Rough ego motion, camera clocks and camera rotations are refined from the pictures."""
