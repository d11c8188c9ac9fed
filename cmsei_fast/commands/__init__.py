"""The commands of ``cmsei-fast``, one file for each."""
