"""System checks that name contradictory or unsafe settings, each with a stable id and a hint."""
