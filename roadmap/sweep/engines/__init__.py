"""What carries out the runs of a sweep: this machine, Slurm, Ray."""
