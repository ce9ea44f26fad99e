"""What the car knows: the features and calibration of N cameras plus memory become a 4D world."""
