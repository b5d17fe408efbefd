"""The commands of `fedguard`, one file each."""
