"""Drawn people: data that anyone can make, to try every command on."""
