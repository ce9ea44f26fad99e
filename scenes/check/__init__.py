"""Is a clip sound: its files, its clocks, its poses and its calibration?"""
