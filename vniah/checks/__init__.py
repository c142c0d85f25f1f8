"""Checks of somebody's model: is it what vniah takes it for, and does vniah compute the same?"""
