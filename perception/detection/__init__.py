"""VCD: shared parts of camera BEV detectors, each usable alone; `vcd.py` assembles them."""
