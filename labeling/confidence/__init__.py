"""How sure are the labels? Calibrated probabilities that a box's centre is within 0.5, 1 and 2 m."""
