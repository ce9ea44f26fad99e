"""How do detections of a whole clip become tracks with one box a frame?"""
