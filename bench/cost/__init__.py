"""What methods cost: time, memory and energy, measured by named protocols, one fresh process per cell."""
