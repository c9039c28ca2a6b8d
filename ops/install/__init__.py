"""What an installation needs around the programs: health checks, service units, the way back."""
