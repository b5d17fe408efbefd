"""What attacks share: crafting, poisoning, projections, rehearsals, schedules."""
