"""Network parts that several methods share: thin modules, no losses, no schedules."""
