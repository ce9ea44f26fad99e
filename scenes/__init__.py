"""What happened on the road: geometry, rigs, frames, clips, label layers, dataset readers and the simulator."""
