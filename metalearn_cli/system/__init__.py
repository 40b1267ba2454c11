"""The machine below: devices, memory, processes, signals, files, and the terminal."""
