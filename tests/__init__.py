"""The tests, one folder for each room of the project. A package, so that no other one of this name is found first."""
