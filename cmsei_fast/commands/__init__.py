"""The commands of ``cmsei-fast``, a file each."""
