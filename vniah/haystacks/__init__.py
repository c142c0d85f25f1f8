"""Haystacks: the pictures around the needle, from videos, folders of images, or generated."""
