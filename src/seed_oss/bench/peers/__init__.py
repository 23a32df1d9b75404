"""Engines that are not ours, each a program for a process of its own. They need their package and numpy, not ours."""
