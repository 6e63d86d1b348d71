"""Detection: boxes, masks and keypoints of every object in the picture."""
