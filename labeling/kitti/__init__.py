"""How is the KITTI tracking layout read, labelled and written?"""
