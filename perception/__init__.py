"""What each camera sees: image to features, per-camera auxiliary heads and augmentation."""
